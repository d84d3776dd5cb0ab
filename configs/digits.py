"""Dynamic hard pruning on scikit-learn's digits: nothing to download.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

Variants: --config.method=hp, --config.method=sp, --config.method=dense.
"""

from dynhp_jax import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "digits"
    config.epochs = 100
    config.data.name = "digits"
    config.model.hidden = (128, 64)
    config.penalty.lam = 0.3
    config.batch.alpha = 0.8
    config.batch.grid = 1.5
    config.compiling.shrink = 0.25
    config.memory.sp_batch = 64
    return config
