"""Importance criteria on a narrow VGG-11 (an eighth of the channels) and CIFAR-10.

    python -m experiments.compare --config=configs/compare_cifar10.py

Sized as configs/compare_fmnist.py is, with 12 dense epochs; the network is far from trained then.
More by override:

    --config.model.width=0.25 --config.data.examples=0 --config.compare.test=0 --config.epochs=40
"""

from configs import compare_fmnist


def get_config():
    config = compare_fmnist.get_config()  # the same criteria, seeds and methods
    config.name = "cifar10"
    config.epochs = 12
    config.data.name = "cifar10"
    config.data.validation = 0.03
    config.model.name = "vgg"
    config.model.depth = 11
    config.model.width = 0.125
    config.gates.open_hidden = 0.98
    config.compare.criteria = (*config.compare.criteria, "batch_norm")
    config.compare.fractions = (0.25, 0.5, 0.75, 0.9)
    config.compare.lams = (0.1,)
    return config
