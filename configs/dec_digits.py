"""Sixteen nodes on a ring train a network on scikit-learn's digits: nothing to download.

    python -m experiments.decentralised --config=configs/dec_digits.py --workdir=runs/dec-digits

Each node has 87 of the 1,437 training examples, as many of every class, and averages with its
two neighbours before each of 20 rounds.
"""

from experiments.nodes import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "dec-digits"
    config.data.name = "digits"
    config.model.hidden = (64,)
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.03
    config.nodes.count = 16
    config.nodes.graph = "ring"
    config.nodes.rounds = 20
    config.nodes.local_epochs = 2
    config.nodes.judge_every = 5
    return config
