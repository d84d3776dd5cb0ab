"""Sixteen nodes on a ring that draw their weights independently, with their gain (2403.15855).

    python -m experiments.decentralised --config=configs/dec_ring.py --workdir=runs/dec-ring

784-512-256-128-10 on MNIST, 640 examples and one local epoch for each node and round. Beside it,
each in a workdir of its own:

    the same weights for all:  --config.nodes.start=shared
    no gain:                   --config.nodes.start=independent
"""

from configs import dec_mnist


def get_config():
    config = dec_mnist.get_config()
    config.name = "dec-ring"
    config.nodes.count = 16
    config.nodes.graph = "ring"
    config.nodes.examples = 640
    config.nodes.rounds = 60
    config.nodes.local_epochs = 1
    config.nodes.judge_every = 3
    return config
