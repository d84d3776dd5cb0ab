"""Dynamic hard pruning of the paper's 784-300-100-10 network on Fashion-MNIST.

    python -m experiments.train --config=configs/fmnist.py --workdir=runs/fmnist

The data comes from a directory that tensorflow-datasets prepared (TFDS_DATA_DIR or
--config.data.dir), or is downloaded. Variants, each in a workdir of its own:

    soft pruning, batch 128:  --config.method=sp
    hard pruning, batch 128:  --config.method=hp

One run, seed 0, on one busy core (294 s of training): test error 10.50 % after 100 epochs (best:
10.28 % in epoch 70), 510-183-100 of 784-300-100 units left, 441.1 of 1,041.4 KiB, training memory
0.096 in the unit of the paper's tables, mini-batch 16 to 304. Its files are in
results/runs/fmnist/.

The budget is the memory of the soft-pruning run: the whole network and 128 examples.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "fmnist"
    config.epochs = 100
    config.data.name = "fashion_mnist"
    config.model.hidden = (300, 100)
    config.penalty.lam = 0.1
    config.batch.alpha = 0.95
    config.memory.sp_batch = 128
    return config
