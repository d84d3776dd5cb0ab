"""A ResNet-20 of half the width learns five classes of CIFAR-10, and is transferred to the others.

    python -m experiments.finetune --config=configs/finetune_cifar10.py
    python -m experiments.compare_finetune --track=A

Track A of the comparison of methods of fine-tuning: no foreign weights. It is pretrained for 20
epochs on the classes 0 to 4; BatchNorm is folded, the head is new. Sized for one core: 5,000
images an epoch, 5 epochs and one of warm-up, SGD without momentum, a cosine to 0; 2,000 images are
held out, on which rates are chosen.
"""

from experiments.finetuning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "finetune_cifar10"
    config.epochs = 6
    config.method = "dense"
    config.extension = "trady(budget=20000)"
    config.data.name = "cifar10"
    config.data.classes = (5, 6, 7, 8, 9)
    config.data.validation = 0.08
    config.data.examples = 5_000
    config.model.name = "resnet_folded"
    config.model.depth = 20
    config.model.width = 0.5
    config.batch.size = 32
    config.batch.variance = "none"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 1
    config.memory.budget = "none"
    config.memory.sp_batch = 32
    config.checkpoint.keep = 1
    config.pretraining.epochs = 20
    config.pretraining.model = "resnet"
    config.pretraining.classes = (0, 1, 2, 3, 4)
    config.pretraining.learning_rate = 2e-3
    config.pretraining.weight_decay = 1e-2
    config.pretraining.flip = True
    return config
