"""Dynamic hard pruning of a fully convolutional network: which digit each pixel belongs to.

    python -m experiments.train --config=configs/digit_scenes.py --workdir=runs/digit_scenes

With seed 0 the network ends with 5,336 of 28,427 parameters and 10.0 % of the test set's pixels
wrong, the dense one (--config.method=dense) at 7.7 % (results/tasks/tasks.json). Nothing was tuned.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "digit_scenes"
    config.epochs = 20
    config.data.name = "digit_scenes"
    config.data.validation = 0.2
    config.model.name = "fcn"
    config.gates.inputs = False
    config.gates.open_hidden = 0.9
    config.gates.learning_rate = 0.02
    config.penalty.lam = 0.1
    config.batch.alpha = 0.9
    config.batch.grid = 2.0
    config.optimizer.learning_rate = 3e-3
    config.compiling.shrink = 0.5
    config.memory.sp_batch = 64
    return config
