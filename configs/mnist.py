"""Dynamic hard pruning of the paper's 784-300-100-10 network on MNIST.

    python -m experiments.train --config=configs/mnist.py --workdir=runs/mnist

The data comes from a directory that tensorflow-datasets prepared (TFDS_DATA_DIR or
--config.data.dir), or is downloaded. Variants, each in a workdir of its own:

    soft pruning, batch 512:  --config.method=sp
    hard pruning, batch 100:  --config.method=hp --config.batch.size=100

One run, seed 0, on one busy core (196 s of training): test error 1.56 % after 100 epochs (best:
1.36 % in epoch 73), 265-231-100 of 784-300-100 units left, 334.6 of 1,041.4 KiB, training memory
0.070 in the unit of the paper's tables, mini-batch 16 to 128. Its files are in
results/runs/mnist/.

The budget is the memory of the soft-pruning run: the whole network and 512 examples.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "mnist"
    config.epochs = 100
    config.data.name = "mnist"
    config.model.hidden = (300, 100)
    config.penalty.lam = 0.1
    config.batch.alpha = 0.95
    config.memory.sp_batch = 512
    return config
