"""Dynamic hard pruning of a ResNet-20 on CIFAR-10.

    python -m experiments.train --config=configs/cifar10_resnet.py --workdir=runs/cifar10_resnet

Sized for two cores: half the width, 5,000 training examples, 15 epochs. The paper's size by
override, best on a GPU:

    --config.model.width=1 --config.data.examples=0 --config.epochs=200 --config.penalty.lam=2.0

(lambda is divided by the number of examples, so that fewer need less of it).

Units are the channels of every stage's stream and of every block's inner convolution. Batch
normalisation mixes the examples of a batch, so the variance is that of micro-batch means.

Twelve groups of gates in a row are much noise: with `open_hidden` 0.9 the training error was 74 %
after two epochs, with 0.98 it was 66 %. Gates that are nearly always open have small
gradients; they get a larger step size and a larger lambda (0.02 closed none in five epochs).
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "cifar10_resnet"
    config.epochs = 15
    config.data.name = "cifar10"
    config.data.examples = 5_000
    config.model.name = "resnet"
    config.model.depth = 20
    config.model.width = 0.5
    config.gates.inputs = False
    config.gates.open_hidden = 0.98
    config.gates.learning_rate = 0.02
    config.penalty.lam = 0.2
    config.batch.size = 32
    config.batch.alpha = 0.95
    config.compiling.shrink = 0.3
    config.memory.sp_batch = 128
    return config
