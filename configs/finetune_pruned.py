"""Digits once more: a perceptron becomes smaller while it is adapted, and pruning pays for rows.

    python -m experiments.finetune --config=configs/finetune_pruned.py
    python -m benchmarks.finetune_pruned

It is pretrained on the digits 0 to 4, and learns all ten with gates (DynHP) and chosen rows (TraDy)
in one budget of bytes of the training step: what pruned units took is there for more rows from the
next epoch on. The mini-batch stays, or it would take these bytes. `benchmarks.finetune_pruned` sets
each of the two alone beside it, in the same bytes (results/finetune/pruned.json).
"""

from configs import finetune_digits

BUDGET = "240KiB"  # all of it takes 285 KiB with gates and a mini-batch of 1


def get_config():
    config = finetune_digits.get_config()
    config.name = "finetune_pruned"
    config.epochs = 50
    config.method = "dynhp"
    config.extension = f"trady(budget='{BUDGET}')"
    config.model.name = "mlp"
    config.model.depth = 0
    config.model.width = 0.0
    config.model.hidden = (128, 64)
    config.batch.rule = "fixed"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = 0
    config.gates.open_hidden = 0.9
    config.gates.open_input = 0.9
    config.penalty.lam = 0.5
    config.compiling.shrink = 0.3
    config.memory.budget = BUDGET
    config.pretraining.model = ""
    return config
