"""Dynamic hard pruning of a regression: scikit-learn's diabetes table, nothing to download.

    python -m experiments.train --config=configs/diabetes.py --workdir=runs/diabetes

With seed 0 the network ends with 627 of 2,817 parameters and an R^2 of 0.51 on the test set, the
dense one (--config.method=dense) at 0.44 (results/tasks/tasks.json). lambda was chosen among 0.03,
0.1 and 0.3 by R^2 on a held-out fifth of the training set (results/tasks/lambda.json).
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "diabetes"
    config.epochs = 60
    config.data.name = "diabetes"
    config.data.validation = 0.2
    config.model.hidden = (64, 32)
    config.loss.name = "mean_squared_error"
    config.penalty.lam = 0.3
    config.batch.alpha = 0.8
    config.batch.grid = 2.0
    config.optimizer.learning_rate = 3e-3
    config.compiling.shrink = 0.5
    config.memory.sp_batch = 64
    return config
