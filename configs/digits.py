"""Dynamic hard pruning of a 64-128-64-10 network on scikit-learn's digits: nothing to download.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

Takes about a minute on an x86 core, nearly all of it for compiling. With seed 0 there
(results/runs/digits-*):

    method  flags                  test error  units left  model size  mini-batch
    dynhp                              1.94 %    43-25-62    13.1 KiB   16 to 64
    hp      --config.method=hp         3.89 %    44-48-62    22.8 KiB   64
    sp      --config.method=sp         3.61 %   64-128-64    67.3 KiB   64
    dense   --config.method=dense      0.56 %   64-128-64    67.3 KiB   64

The test set has 360 examples: one of them is 0.28 %. Give every method a --workdir of its own.
lambda and the learning rate were chosen for a small network on a held-out fifth of the training set
(--config.data.validation=0.2; error there, where one example is 0.35 %, and model size):

    lambda       learning rate 0.003      learning rate 0.001
    0.5          4.53 %, 10.7 KiB         4.53 %, 22.8 KiB
    0.2          4.18 %, 28.5 KiB         3.83 %, 47.4 KiB
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "digits"
    config.epochs = 60
    config.data.name = "digits"
    config.model.hidden = (128, 64)
    config.penalty.lam = 0.5
    config.batch.alpha = 0.8
    config.batch.grid = 2.0
    config.optimizer.learning_rate = 3e-3
    config.compiling.shrink = 0.3
    config.memory.sp_batch = 64
    return config
