"""Dynamic hard pruning of Louizos' LeNet-5 (20-50-500) on Fashion-MNIST.

    python -m experiments.train --config=configs/fmnist_lenet.py --workdir=runs/fmnist_lenet

Sized for two cores: 10,000 training examples, 15 epochs. The paper's size by override:

    --config.data.examples=0 --config.epochs=200 --config.penalty.lam=0.18

(lambda is divided by the number of examples, so that fewer need less of it).

Units are the channels of both convolutions and the neurons of the hidden layer; the variance of the
gradients is exact. The data comes from a directory that tensorflow-datasets prepared
(TFDS_DATA_DIR or --config.data.dir), or is downloaded.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "fmnist_lenet"
    config.epochs = 15
    config.data.name = "fashion_mnist"
    config.data.examples = 10_000
    config.model.name = "lenet"
    config.penalty.lam = 0.03
    config.batch.alpha = 0.95
    config.compiling.shrink = 0.3
    config.memory.sp_batch = 128
    return config
