"""The sections of a config: a frozen dataclass each, whose fields say what they accept.

Each field's rule, default and help are in one place, beside its name; `--help`, the errors and
docs/fields.md are made of them. What holds between sections is checked by `Config`.
"""

import dataclasses
import math

from dynhp_jax.common.fields import (
    Section,
    choice,
    named,
    number,
    positive,
    switch,
    text,
    whole,
)

OPTIMIZERS = ("adam", "sgd", "momentum")


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
    prefix = "optimizer."
    name: str = named("adam", OPTIMIZERS, "the optax optimizer")
    learning_rate: float = positive(1e-3, "its step size")
    schedule: str = choice(
        "constant", ("constant", "cosine", "linear"), "how all step sizes change over the epochs"
    )
    final: float = number(
        0.0, 0.0, 1.0, "a number from 0 to 1", "the share of a step size that a schedule ends with"
    )
    warmup: int = whole(0, 0, "epochs in which the step sizes rise linearly, before the schedule")
    weight_decay: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "decoupled (AdamW), of kernels: parameters of two axes or more",
    )  # fmt: skip
    ema: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "epochs that an exponential mean of weights and gates goes back; it is what is evaluated"
        "; 0: no mean",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Distillation(Section):
    prefix = "distillation."
    weight: float = number(
        0.0, 0.0, 1.0, "a number from 0 to 1",
        "share of the loss that holds outputs against those of the mean of the weights",
    )  # fmt: skip
    temperature: float = positive(1.0, "of both outputs in that share")
    start: int = whole(0, 0, "epochs before there is such a share")


@dataclasses.dataclass(frozen=True)
class Compiling(Section):
    prefix = "compiling."
    shrink: float = number(
        0.5, 0.0, 1 - 1e-9, "a number from 0 to below 1",
        "arrays are made smaller when this share of the parameters is gone, or before if it pays",
    )  # fmt: skip
    ahead: bool = switch(
        True, "compile the next shapes while training goes on, for epochs; else change at once"
    )
    cache_dir: str = text(
        "",
        "where XLA keeps compiled programs between runs; empty: beside the data; 'none': nowhere",
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    prefix = "checkpoint."
    every: int = whole(1, 1, "epochs between checkpoints")
    keep: int = whole(3, 1, "how many checkpoints stay on disk")
