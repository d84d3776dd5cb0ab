"""Importance criteria on LeNet-5 and Fashion-MNIST.

    python -m experiments.compare --config=configs/compare_fmnist.py

Sized for two busy cores, where it took an hour: 4,000 training examples, 8 dense epochs and one of
fine-tuning, 3,000 test examples. More by override, best on a GPU:

    --config.data.examples=0 --config.compare.test=0 --config.epochs=20 --config.compare.epochs=20

What was found is in results/README.md.
"""

from experiments.comparison import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "fmnist"
    config.epochs = 8
    config.data.name = "fashion_mnist"
    config.data.examples = 4_000
    config.data.validation = 0.02
    config.model.name = "lenet"
    config.gates.inputs = False
    config.gates.open_hidden = 0.9
    config.gates.learning_rate = 0.02
    config.batch.alpha = 0.95
    config.batch.grid = 2.0
    config.compiling.shrink = 0.999
    config.memory.sp_batch = 128
    config.compare.criteria = (
        "l1", "l2", "taylor", "fisher", "geometric_median", "mean_activation", "gradient_norm",
        "velocity", "relevance", "flexrel(delta=0.0)", "flexrel(delta=1.0)", "flexrel", "random",
    )  # fmt: skip
    config.compare.fractions = (0.5, 0.7, 0.85, 0.95)
    config.compare.seeds = (0, 1, 2)
    config.compare.epochs = 1
    config.compare.methods = ("hp", "dynhp")
    config.compare.lams = (0.03,)
    config.compare.test = 3_000
    return config
