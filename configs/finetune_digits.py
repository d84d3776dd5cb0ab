"""A small residual network learns five digits, and then all ten with a part of its rows.

    python -m experiments.finetune --config=configs/finetune_digits.py

Nothing to download. It is pretrained on the digits 0 to 4; BatchNorm is folded, the head is new,
and of the kernels a few rows train, others in each epoch (TraDy). By flags:

    --config.extension="head()"  "full()"  "medyate(budget=3000)"  "lora(rank=4)"

All fine-tunings of the config share the pretraining in runs/finetune_digits-pretraining.
"""

from experiments.finetuning import settings


def get_config():
    config = settings.default_config_dict()
    config.name = "finetune_digits"
    config.epochs = 10
    config.method = "dense"
    config.extension = "trady(budget=3000)"
    config.data.name = "digits"
    config.model.name = "resnet_folded"
    config.model.depth = 8
    config.model.width = 0.5
    config.batch.size = 32
    config.batch.variance = "none"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 1
    config.memory.meter = "xla"
    config.memory.budget = "none"
    config.memory.sp_batch = 32
    config.pretraining.epochs = 20
    config.pretraining.model = "resnet"
    config.pretraining.classes = (0, 1, 2, 3, 4)
    config.pretraining.batch = 64
    config.pretraining.learning_rate = 3e-3
    return config
