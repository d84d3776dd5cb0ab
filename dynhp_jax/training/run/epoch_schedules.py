"""What changes from epoch to epoch by a schedule: learning rate, lambda, whether units are removed.

Pure functions of the config and the number of the epoch, from 1, evaluated on the host. Their
values go into compiled programs as arguments (`state.StepInputs`), so that no schedule compiles
anything; neither a mini-batch that grows nor a run that is resumed disturbs one.
"""

import math

import numpy as np

from dynhp_jax.training.config import Config


def rate(config: Config, epoch: int) -> float:
    """The factor of the learning rates of weights and gates in an epoch.

    It rises linearly in the first `optimizer.warmup` epochs, is 1 in the next one, and follows
    `optimizer.schedule` towards `optimizer.final`, which it would reach in the epoch after the
    last.

    Source of the cosine: Loshchilov and Hutter 2017 (1608.03983), Eq. 5, without restarts.

    >>> import dataclasses
    >>> config = Config(epochs=4)
    >>> cosine = dataclasses.replace(config.optimizer, schedule="cosine")
    >>> config = dataclasses.replace(config, optimizer=cosine)
    >>> [round(rate(config, epoch), 3) for epoch in (1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    settings = config.optimizer
    if epoch <= settings.warmup:
        return epoch / (settings.warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (epoch - 1 - settings.warmup) / (config.epochs - settings.warmup))
    left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.final + (1 - settings.final) * left


def lam(config: Config, epoch: int) -> float:
    """Lambda in an epoch: 0 up to `penalty.start`, then rising, and 0 again after `penalty.stop`.

    And 0 all along with a method that has no gates.

    >>> from dynhp_jax.gates.options import Penalty
    >>> config = Config(penalty=Penalty(lam=0.3, start=1, warmup=2, stop=5))
    >>> [round(lam(config, epoch), 3) for epoch in range(1, 8)]
    [0.0, 0.1, 0.2, 0.3, 0.3, 0.0, 0.0]
    """
    settings = config.penalty
    if not config.gated or epoch <= settings.start or 0 < settings.stop < epoch:
        return 0.0
    return settings.lam * min(1.0, (epoch - settings.start) / (settings.warmup + 1))


def prunes(config: Config, epoch: int) -> bool:
    """Whether units are removed after an epoch."""
    settings = config.pruning
    return config.prunes and settings.start < epoch and not 0 < settings.stop < epoch


def forgetting(config: Config, steps: int) -> float:
    """The share of a step in the running mean of the weights: 1 - exp(-1 / (ema x steps)).

    Args:
      config: the run.
      steps: of the epoch; `optimizer.ema` counts in epochs, so that the mean goes back as far
        whatever the mini-batch.
    """
    ema = config.optimizer.ema
    return -math.expm1(-1 / (ema * steps)) if ema else 1.0


def teaching(config: Config, epoch: int) -> float:
    """The teacher's share of the loss in an epoch."""
    return config.distillation.weight if epoch > config.distillation.start else 0.0


def numbers(config: Config, epoch: int, steps: int) -> dict[str, np.float32]:
    """The fields of `state.StepInputs` that are an epoch's own."""
    return {
        "lam": np.float32(lam(config, epoch)),
        "rate": np.float32(rate(config, epoch)),
        "forgetting": np.float32(forgetting(config, steps)),
        "teaching": np.float32(teaching(config, epoch)),
    }
