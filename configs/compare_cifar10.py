"""Importance criteria on a narrow VGG-11 and CIFAR-10."""

from experiments.comparison import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "cifar10"
    config.epochs = 12
    config.data.name = "cifar10"
    config.data.examples = 4_000
    config.data.validation = 0.03
    config.model.name = "vgg"
    config.model.depth = 11
    config.model.width = 0.125
    config.gates.inputs = False
    config.gates.open_hidden = 0.98
    config.gates.learning_rate = 0.02
    config.batch.alpha = 0.95
    config.batch.grid = 2.0
    config.compiling.shrink = 0.999
    config.memory.sp_batch = 128
    config.compare.criteria = (
        "l1", "l2", "batch_norm", "taylor", "fisher", "geometric_median", "mean_activation",
        "gradient_norm", "velocity", "relevance", "flexrel(delta=0.0)", "flexrel(delta=1.0)",
        "flexrel", "random",
    )  # fmt: skip
    config.compare.fractions = (0.25, 0.5, 0.75, 0.9)
    config.compare.seeds = (0, 1, 2)
    config.compare.epochs = 1
    config.compare.methods = ("hp", "dynhp")
    config.compare.lams = (0.1,)
    config.compare.test = 3_000
    return config
