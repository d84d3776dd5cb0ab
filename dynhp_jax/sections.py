"""The sections of a config: a frozen dataclass each, whose fields say what they accept.

Each field's rule, default and help are in one place, beside its name; README's table of fields and
the errors are made of them. What holds between sections is checked by `Config`.
"""

import dataclasses
import math

from dynhp_jax import batch_size, data, gates, models
from dynhp_jax.errors import ConfigError
from dynhp_jax.fields import (
    LARGEST_WHOLE,
    Section,
    as_text,
    as_whole,
    choice,
    number,
    positive,
    several,
    size_in_bytes,
    switch,
    text,
    whole,
)


def _check_span(section: Section) -> None:
    """Raises ConfigError where `stop`, unless 0, is not after `start`."""
    if 0 < section.stop <= section.start:
        allowed = f"0, or after the first {section.start} epochs ({section.prefix}start)"
        raise ConfigError(f"{section.prefix}stop", section.stop, allowed)


OPTIMIZERS = ("adam", "sgd", "momentum")
METERS = ("paper", "xla")
SAVINGS = ("accumulate", "remat", "shared_gates", "bf16_moments")


def _saving(value) -> str:
    if value not in SAVINGS:
        raise ValueError
    return value


def _width(value) -> int:
    if as_whole(value) < 1:
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Data(Section):
    prefix = "data."
    name: str = choice("digits", data.NAMES, "the dataset; digits is embedded, needs no download")
    dir: str = text("", "a prepared tfds directory; empty: $TFDS_DATA_DIR or tfds's default")
    cache_dir: str = text("", "where decoded arrays are kept; empty: $DYNHP_CACHE or ~/.cache")
    examples: int = whole(0, 0, "the first so many of the training set are used; 0: all")
    resident: str = size_in_bytes(
        "2GiB", "a split whose images take more stays on the host and is sent in chunks"
    )
    validation: float = number(
        0.0,
        0.0,
        0.9,
        "a number from 0 to 0.9",
        "share of the training set held out; its error is reported, too",
    )
    noise: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "standard deviation of Gaussian noise on the inputs in training",
    )  # fmt: skip
    shift: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "standard deviation, in pixels, of random moves of training images",
    )  # fmt: skip
    flip: bool = switch(False, "mirror training images at random, left to right")

    @property
    def augmented(self) -> bool:
        """Whether training sees images moved or mirrored."""
        return self.shift > 0 or self.flip


@dataclasses.dataclass(frozen=True)
class Model(Section):
    prefix = "model."
    name: str = choice("mlp", tuple(models.SPECS), "the network")
    hidden: tuple[int, ...] = several(
        (), _width, f"widths of 1 to {LARGEST_WHOLE}, such as (300, 100)",
        "units of the hidden layers; (): the model's own",
    )  # fmt: skip
    width: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more", "multiplies its widths; 0: the model's own"
    )
    depth: int = whole(
        0, 0, "layers or blocks, for models that have a choice; 0: the model's own", high=10_000
    )


@dataclasses.dataclass(frozen=True)
class Gates(Section):
    prefix = "gates."
    per_example: bool = switch(False, "draw gates for each example instead of each mini-batch")
    inputs: bool = switch(True, "gate (and prune) the inputs, too")
    open_input: float = number(
        0.8, 1e-6, 1 - 1e-6, "a number between 0 and 1", "1 - drop rate of input gates at the start"
    )
    open_hidden: float = number(
        0.5, 1e-6, 1 - 1e-6, "a number between 0 and 1", "1 - drop rate of other gates at the start"
    )
    learning_rate: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more", "step size of log alpha; 0: the optimizer's"
    )
    most_open: float = number(
        1.0, 0.1, 1.0, "a number from 0.1 to 1",
        "largest 1 - drop rate of a gate, so that gates stay random; 1: no bound to speak of",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Penalty(Section):
    prefix = "penalty."
    lam: float = number(0.1, 0.0, math.inf, "a number, 0 or more", "strength of the L0 penalty")
    convention: str = choice("amlab", gates.CONVENTIONS, "what lam multiplies; see 'Which lambda'")
    l2: float = number(
        0.0,
        0.0,
        math.inf,
        "a number, 0 or more",
        "rho, precision of an L2 term weighed by the gates",
    )
    start: int = whole(0, 0, "epochs before there is a price on gates")
    warmup: int = whole(0, 0, "epochs in which lam rises linearly, from then on")
    stop: int = whole(0, 0, "the last epoch with a price on gates; 0: the run's")

    def __post_init__(self):
        super().__post_init__()
        _check_span(self)


@dataclasses.dataclass(frozen=True)
class Pruning(Section):
    prefix = "pruning."
    gamma: float = number(
        0.5, 0.0, 1.0, "a number from 0 to 1", "units active less often than this are removed"
    )
    groups: tuple[str, ...] = several(
        (), as_text, "names of groups, or () for every exact one", "which groups to gate and prune"
    )
    start: int = whole(0, 0, "epochs before any unit is removed")
    stop: int = whole(0, 0, "the last epoch after which units are removed; 0: the run's")

    def __post_init__(self):
        super().__post_init__()
        _check_span(self)


@dataclasses.dataclass(frozen=True)
class Batch(Section):
    prefix = "batch."
    size: int = whole(0, 0, "examples of a mini-batch (at first); 0: by the method")
    rule: str = choice(
        "method", ("method", *batch_size.RULES), "how it grows; 'method': by the method"
    )
    every: str = choice(
        "epoch",
        ("epoch", "step"),
        "DynHP's rule is applied once an epoch, or at its end once for each of the epoch's steps",
    )
    alpha: float = number(
        0.975, 0.0, 1.0, "a number from 0 to 1", "DynHP: smaller lets the batch grow faster"
    )
    eta: float = positive(0.1, "CABS: its factor of proportion")
    loss: str = choice(
        "total", ("total", "cross_entropy"), "F in the rules: with the penalty or not"
    )
    variance: str = choice(
        "auto",
        ("auto", "norms", "vmap", "micro", "none"),
        "how ||S||_1 is found: exactly, from norms or every example's gradient (vmap); "
        "of micro-batch means (batch normalisation); not at all",
    )
    micro_batches: int = whole(2, 2, "parts of a mini-batch, with the variance 'micro'")
    decay: float = number(
        0.95, 0.0, 1 - 1e-9, "a number from 0 to below 1", "of the running means of ||S||_1 and F"
    )
    grid: float = number(
        1.25, 1.0, 1e6, "a number, 1 or more", "compiled batch sizes are this factor apart"
    )


@dataclasses.dataclass(frozen=True)
class Memory(Section):
    prefix = "memory."
    meter: str = choice(
        "paper",
        METERS,
        "how memory is counted: by the paper's arithmetic, or as XLA allocates it for the steps",
    )
    budget: str = text(
        "sp", "bytes, such as '1.5MiB'; 'sp': the whole network at sp_batch; 'none': no limit"
    )
    sp_batch: int = whole(128, 1, "the batch of soft pruning; also of the budget 'sp'")
    allow: tuple[str, ...] = several(
        (),
        _saving,
        f"names among {', '.join(SAVINGS)}",
        "what may be done where even the smallest mini-batch does not fit (meter 'xla')",
    )
    smallest: int = whole(
        0, 0, "the smallest mini-batch; 0: 1, or batch.size where accumulating is allowed"
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
    prefix = "optimizer."
    name: str = choice("adam", OPTIMIZERS, "the optax optimizer")
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
