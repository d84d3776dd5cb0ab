"""A plan over three models and three node sets on scikit-learn's digits: nothing to download.

    python -m experiments.plan --measure --config=configs/plan_digits.py
    python -m experiments.plan --config=configs/plan_digits.py --target=0.3 --deadline=40

A network of 64-32 units; gold nodes have 600 examples of eight classes, silver 240 of nine, bronze
120 of all ten. Epochs cost what the paper says (L 1, M 0.8 and 0.5, S 0.5 and 0.2); joules and
seconds by the measured operations and bytes: --config.plan.costs=stated. One of the three seeds
takes about half a minute of a core.
"""

from experiments.planning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "plan-digits"
    config.data.name = "digits"
    config.model.name = "mlp"
    config.model.hidden = (64, 32)
    config.batch.size = 16
    config.optimizer.learning_rate = 2e-3
    config.plan.examples = (600, 240, 120)
    config.plan.classes = (8, 9, 10)
    config.plan.costs = "section6"
    config.plan.first = 20
    config.plan.later = 20
    config.plan.cuts = (2, 5, 10)
    return config
