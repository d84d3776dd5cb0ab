"""Dynamic hard pruning of a regression: scikit-learn's diabetes table, nothing to download.

python -m experiments.train --config=configs/diabetes.py --workdir=runs/diabetes
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
