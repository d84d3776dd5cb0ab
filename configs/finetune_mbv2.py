"""MobileNetV2 of width 0.35, trained on ImageNet, is adapted to CIFAR-10 at 64x64.

    python -m experiments.finetune --config=configs/finetune_mbv2.py
    python -m experiments.compare_finetune --track=B

Track B of the comparison of methods of fine-tuning: the network of Sparse Update, TraDy and
MeDyate, with their smallest budget. The weights (8 bits, BatchNorm folded in; the README beside
them says where they came from) are no part of the project: --config.start.weights=PATH names them.
SGD without momentum, a cosine to 0 after one epoch of warm-up; 2,000 images are held out, on which
rates are chosen. MCUNet: --config.model.name=mcunet-5fps and its weights.
"""

from experiments.finetuning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "finetune_mbv2"
    config.epochs = 11
    config.method = "dense"
    config.extension = "trady(budget=27946)"
    config.start.weights = "../shared/data/weights/mbv2-w0.35.npz"
    config.data.name = "cifar10"
    config.data.size = 64
    config.data.validation = 0.04
    config.data.examples = 10_000
    config.model.name = "mbv2-w0.35"
    config.batch.size = 32
    config.batch.variance = "none"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.125
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 1
    config.memory.budget = "none"
    config.memory.sp_batch = 32
    config.checkpoint.keep = 1
    return config
