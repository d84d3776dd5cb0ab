"""What a run is: nested frozen dataclasses, checked field by field when they are made.

`ml_collections` stays at the edge. A file in `configs/` returns a ConfigDict (for `--config.x.y=`
overrides); `from_config_dict` turns it into a `Config` at once, so that a wrong name or value ends
there, in one line that names the field. Fields hold plain numbers, strings and tuples, so that a
`Config` is hashable and goes through JSON unchanged (`to_dict`, `from_dict`).
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from dynhp_jax import batch_size, data, gates, models
from dynhp_jax.errors import ConfigError, UserError
from dynhp_jax.fields import (
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
from dynhp_jax.scores import Scores


def _check_span(section: Section) -> None:
    """Raises ConfigError where `stop`, unless 0, is not after `start`."""
    if 0 < section.stop <= section.start:
        allowed = f"0, or after the first {section.start} epochs ({section.prefix}start)"
        raise ConfigError(f"{section.prefix}stop", section.stop, allowed)


METHODS = ("dynhp", "hp", "sp", "dense", "scores")
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


@dataclasses.dataclass(frozen=True)
class Model(Section):
    prefix = "model."
    name: str = choice("mlp", tuple(models.SPECS), "the network")
    hidden: tuple[int, ...] = several(
        (), _width, "widths, such as (300, 100)", "units of the hidden layers; (): the model's own"
    )
    width: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more", "multiplies its widths; 0: the model's own"
    )
    depth: int = whole(0, 0, "layers or blocks, for models that have a choice; 0: the model's own")


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
        "1 - drop rate that no gate exceeds, so that it stays noise; 1: as good as always open",
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
        "how often DynHP's rule counts; 'step': at an epoch's end as often as it had steps",
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
        "constant", ("constant", "cosine", "linear"), "of all step sizes, over the run's epochs"
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
    temperature: float = positive(1.0, "of both outputs there")
    start: int = whole(0, 0, "epochs before that")


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


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """A whole run.

    `method` decides what `batch.rule='method'` and `batch.size=0` mean: dynhp starts at 16
    examples and grows by the paper's rule; the others stay at `memory.sp_batch`. sp has gates and
    never prunes, hp and dynhp prune, dense has no gates; scores has none either and prunes by the
    criterion of the section `scores`.

    Raises:
      ConfigError: a field holds what it must not; the message names it and what is allowed.
    """

    name: str = text("run", "of the experiment; the default workdir is runs/NAME-METHOD-seedSEED")
    seed: int = whole(0, 0, "of everything random")
    epochs: int = whole(100, 1, "how often the training set is passed through")
    method: str = choice("dynhp", METHODS, "how units go; see 'Training'")
    devices: int = whole(1, 0, "that each mini-batch is spread over; 0: all that there are")
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    gates: Gates = dataclasses.field(default_factory=Gates)
    penalty: Penalty = dataclasses.field(default_factory=Penalty)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    scores: Scores = dataclasses.field(default_factory=Scores)
    batch: Batch = dataclasses.field(default_factory=Batch)
    memory: Memory = dataclasses.field(default_factory=Memory)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    compiling: Compiling = dataclasses.field(default_factory=Compiling)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)

    def __post_init__(self):
        super().__post_init__()
        rule = self.batching.rule
        if self.batch.variance == "none" and rule != "fixed":
            raise ConfigError("batch.variance", "none", f"norms or vmap with the rule {rule!r}")
        if self.method == "scores" and self.scores.criterion:
            self.scores.check(self.epochs)
        if self.distillation.weight and not self.optimizer.ema:
            allowed = "0 without a mean of the weights to learn from; set optimizer.ema, such as 1"
            raise ConfigError("distillation.weight", self.distillation.weight, allowed)
        schedule, warmup = self.optimizer.schedule, self.optimizer.warmup
        if schedule != "constant" and warmup >= self.epochs:
            allowed = f"less than the {self.epochs} epochs that {schedule!r} takes"
            raise ConfigError("optimizer.warmup", warmup, allowed)

    @property
    def batching(self) -> Batch:
        """`batch`, with what it leaves to the method filled in."""
        rule, size = self.batch.rule, self.batch.size
        if rule == "method":
            rule = "dynhp" if self.method == "dynhp" else "fixed"
        if size == 0:
            size = self.memory.sp_batch if rule == "fixed" else 16
        return dataclasses.replace(self.batch, rule=rule, size=size)

    @property
    def gated(self) -> bool:
        return self.method in ("sp", "hp", "dynhp")

    @property
    def masked(self) -> bool:
        """Whether the network's units are in groups: gates or a criterion may speak of them."""
        return self.method != "dense"

    @property
    def prunes(self) -> bool:
        return self.method in ("hp", "dynhp")


SECTIONS = {
    field.name: field.default_factory
    for field in dataclasses.fields(Config)
    if field.default_factory is not dataclasses.MISSING
}

# A finished run may be lengthened, and where things lie is no part of what is computed.
FREE_ON_RESUME = frozenset(
    {"epochs", "devices", "data.dir", "data.cache_dir", "data.resident", "compiling.cache_dir",
     "checkpoint.every", "checkpoint.keep"}
)  # fmt: skip
# With the meter 'xla' the budget is one device's, so that it depends on these what fits.
DECIDE_WHAT_FITS = frozenset({"devices", "data.resident"})


def field_names(further: Mapping[str, type] = MappingProxyType({})) -> tuple[str, ...]:
    """Every field by its dotted name, in order; `further` are sections of a program's own.

    >>> field_names()[:4]
    ('name', 'seed', 'epochs', 'method')
    """
    names = []
    for field in dataclasses.fields(Config):
        if field.name in SECTIONS:
            inner = dataclasses.fields(SECTIONS[field.name])
            names += [f"{field.name}.{each.name}" for each in inner]
        else:
            names.append(field.name)
    for section, holder in further.items():
        names += [f"{section}.{each.name}" for each in dataclasses.fields(holder)]
    return tuple(names)


def allowed(name: str, further: Mapping[str, type] = MappingProxyType({})) -> str:
    """What the field of this dotted name accepts, as a phrase.

    >>> allowed("pruning.gamma")
    'a number from 0 to 1'
    """
    section, _, last = name.rpartition(".")
    holder = {**SECTIONS, **further}[section] if section else Config
    return holder.__dataclass_fields__[last].metadata["rule"].allowed


def unknown_field(name: str, further: Mapping[str, type] = MappingProxyType({})) -> UserError:
    """The error for a dotted name that is no field; it offers the nearest ones."""

    def likeness(field: str) -> float:
        pairs = (field, name), (field.rsplit(".", 1)[-1], name.rsplit(".", 1)[-1])
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    names = field_names(further)
    near = sorted((each for each in names if likeness(each) > 0.7), key=likeness, reverse=True)[:3]
    if near:
        return UserError(f"config.{name} is not a field; did you mean: {', '.join(near)}")
    section = name.split(".", 1)[0] + "."
    inside = [each for each in names if each.startswith(section)]
    return UserError(f"config.{name} is not a field; the fields are: {', '.join(inside or names)}")


def from_dict(values: Mapping[str, Any]) -> Config:
    """Makes a `Config` of nested mappings; what is missing takes its default.

    Raises:
      UserError: a name is not a field (with the nearest names), or a section is no mapping.
      ConfigError: a value is not allowed.
    """
    top = {field.name for field in dataclasses.fields(Config)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in top:
            raise unknown_field(name)
        if name not in SECTIONS:
            arguments[name] = value
            continue
        if not isinstance(value, Mapping):
            inner = (each.name for each in dataclasses.fields(SECTIONS[name]))
            raise ConfigError(name, value, f"a section with the fields {', '.join(inner)}")
        inner = {field.name for field in dataclasses.fields(SECTIONS[name])}
        for key in value:
            if key not in inner:
                raise unknown_field(f"{name}.{key}")
        arguments[name] = SECTIONS[name](**value)
    return Config(**arguments)


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
    """`from_dict` for what `config_flags` gives; the same errors."""
    return from_dict(values.to_dict())


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dictionaries, ready for JSON (tuples become lists there)."""
    return dataclasses.asdict(config)


def default_config_dict() -> ml_collections.ConfigDict:
    """All fields at their defaults, locked: what a file in `configs/` starts from."""
    return ml_collections.ConfigDict(to_dict(Config())).lock()


def flatten(config: Config) -> dict[str, Any]:
    """{dotted name: value}.

    >>> flatten(Config())["pruning.gamma"]
    0.5
    """
    flat: dict[str, Any] = {}
    for name, value in to_dict(config).items():
        if name in SECTIONS:
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def differences(earlier: Config, now: Config) -> list[str]:
    """What keeps `now` from going on where `earlier` stopped, a phrase per field.

    Fewer epochs than before differ; more do not, unless the learning rate's schedule is over all
    of them; nor do paths and the upkeep of checkpoints, nor, where the paper's meter counts, the
    number of devices and what is streamed to them.
    """
    free = FREE_ON_RESUME - (DECIDE_WHAT_FITS if now.memory.meter == "xla" else set())
    earlier, now = (dataclasses.replace(each, batch=each.batching) for each in (earlier, now))
    before, after = flatten(earlier), flatten(now)
    found = [
        f"config.{name} (there {before[name]!r}, here {after[name]!r})"
        for name in before
        if name not in free and before[name] != after[name]
    ]
    if now.epochs < earlier.epochs:
        found.insert(0, f"config.epochs (there {earlier.epochs}, here only {now.epochs})")
    elif now.epochs > earlier.epochs and now.optimizer.schedule != "constant":
        found.insert(
            0,
            f"config.epochs (there {earlier.epochs}, here {now.epochs}, and"
            f" optimizer.schedule={now.optimizer.schedule!r} is over all of them)",
        )
    return found
