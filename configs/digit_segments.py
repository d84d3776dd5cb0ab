"""Dynamic hard pruning of a multi-label network: the segments that show scikit-learn's digits.

    python -m experiments.train --config=configs/digit_segments.py --workdir=runs/digit_segments

With seed 0 the network ends with 1,777 of 17,031 parameters and 2.1 % of the labels of the test set
wrong, the dense one (--config.method=dense) at 0.6 % (results/tasks/tasks.json). Nothing was tuned.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "digit_segments"
    config.epochs = 60
    config.data.name = "digit_segments"
    config.data.validation = 0.2
    config.model.hidden = (128, 64)
    config.loss.name = "sigmoid_cross_entropy"
    config.penalty.lam = 0.2
    config.batch.alpha = 0.8
    config.batch.grid = 2.0
    config.optimizer.learning_rate = 3e-3
    config.compiling.shrink = 0.5
    config.memory.sp_batch = 64
    return config
