"""A plan over LeNet-5 and two cuts of it on Fashion-MNIST (PACT, section VI, at CPU scale).

    python -m experiments.plan --measure --config=configs/plan_mnist.py
    python -m experiments.plan --config=configs/plan_mnist.py --target=0.45 --deadline=600

Gold nodes have 4,500 examples of six classes, silver 500 of eight, bronze 150 of all ten; M lacks
half of the parameters, S three quarters. Three seeds take hours of two cores; what is measured is
kept file by file, and the same command goes on. A small one, of one seed:

    --config.name=plan-mnist-small --config.plan.seeds=1 --config.plan.examples="(1500,300,150)"
    --config.plan.cuts="(3,8)" --config.plan.first=15 --config.plan.later=12
"""

from experiments.planning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "plan-mnist"
    config.data.name = "fashion_mnist"
    config.model.name = "lenet"
    config.batch.size = 64
    config.optimizer.learning_rate = 1e-3
    return config
