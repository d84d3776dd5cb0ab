"""Sixty-four nodes on a scale-free graph train the papers' network on MNIST (2312.04504).

    python -m experiments.decentralised --config=configs/dec_mnist.py --workdir=runs/dec-mnist

784-512-256-128-10, SGD of 0.001 with momentum 0.5 that starts anew in every round, mini-batches of
32, five local epochs; initial weights of each node's own, with the gain of the mixing matrix that
is used. Variants, each in a workdir of its own:

    the paper's unequal data:   --config.nodes.placement=zipf
    its rule and loss:          --config.nodes.rule=decdiff --config.nodes.teacher=kl
    no gain:                    --config.nodes.start=independent
    rare classes at the hubs:   --config.nodes.placement=centrality
    hubs leave after 30 rounds: --config.nodes.drop=leave --config.nodes.drop_at=30
    bad labels:                 --config.nodes.bad=labels --config.nodes.bad_on=central
    small:                      --config.model.hidden="(64,)" --config.nodes.examples=640
"""

from experiments.nodes import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "dec-mnist"
    config.data.name = "mnist"
    config.model.hidden = (512, 256, 128)
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.nodes.count = 64
    config.nodes.graph = "barabasi_albert"
    config.nodes.degree = 4.0
    config.nodes.start = "gain"
    config.nodes.rounds = 100
    config.nodes.local_epochs = 5
    config.nodes.judge_every = 5
    return config
