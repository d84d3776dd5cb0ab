"""A plan over a narrow VGG-11 and two cuts of it on CIFAR-10 (PACT, section VI, at CPU scale).

    python -m experiments.plan --measure --config=configs/plan_cifar10.py
    python -m experiments.plan --config=configs/plan_cifar10.py --target=0.9 --deadline=3600

As configs/plan_mnist.py; widths are a quarter of VGG-11's. CIFAR-100, from which the paper takes
further classes, is not among the project's data: class sets of CIFAR-10 grow from six to ten.
"""

from experiments.planning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "plan-cifar10"
    config.data.name = "cifar10"
    config.model.name = "vgg"
    config.model.depth = 11
    config.model.width = 0.25
    config.batch.size = 64
    config.optimizer.learning_rate = 1e-3
    return config
