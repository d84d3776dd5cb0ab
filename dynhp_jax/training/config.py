"""What a run is: nested frozen dataclasses, checked field by field when they are made.

`ml_collections` stays at the edge. A file in `configs/` returns a ConfigDict (for `--config.x.y=`
overrides); `from_config_dict` turns it into a `Config` at once, so that a wrong name or value ends
there, in one line that names the field. Fields hold plain numbers, strings and tuples, so that a
`Config` is hashable and goes through JSON unchanged (`to_dict`, `from_dict`).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import ml_collections

from dynhp_jax.batch_size.options import Batch
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.common.fields import Rule, Section, choice, path_name, text, whole
from dynhp_jax.common.own_code import Origin, is_own
from dynhp_jax.data.options import Data
from dynhp_jax.gates.options import Gates, Penalty, Pruning
from dynhp_jax.memory.options import Memory
from dynhp_jax.memory.registry import METERS
from dynhp_jax.models.options import Model, Start
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.tasks.options import Loss
from dynhp_jax.training.options import Checkpoint, Compiling, Distillation, Optimizer
from dynhp_jax.writers.options import Records

METHODS = ("dynhp", "hp", "sp", "dense", "scores")
_OF_ONES_OWN = ("model", "data", "loss", "optimizer")


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

    origin: ClassVar[Origin] = Origin.PERSON  # so it may name code of one's own

    name: str = path_name(
        "run", "of the experiment; the default workdir is runs/NAME-METHOD-seedSEED"
    )
    seed: int = whole(0, 0, "of everything random", high=2**32 - 1)  # where keys wrap
    epochs: int = whole(100, 1, "how often the training set is passed through")
    method: str = choice("dynhp", METHODS, "how units are removed; see docs/training.md")
    extension: str = text(
        "", "parts that replace some of the step's, NAME(option=value) or module:Class; empty: none"
    )
    devices: int = whole(1, 0, "devices of each process that share every mini-batch; 0: all")
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    start: Start = dataclasses.field(default_factory=Start)
    loss: Loss = dataclasses.field(default_factory=Loss)
    gates: Gates = dataclasses.field(default_factory=Gates)
    penalty: Penalty = dataclasses.field(default_factory=Penalty)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    scores: ScoreOptions = dataclasses.field(default_factory=ScoreOptions)
    batch: Batch = dataclasses.field(default_factory=Batch)
    memory: Memory = dataclasses.field(default_factory=Memory)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    compiling: Compiling = dataclasses.field(default_factory=Compiling)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    records: Records = dataclasses.field(default_factory=Records)

    def __post_init__(self):
        super().__post_init__()
        rule = self.batching.rule
        if self.batch.variance == "none" and rule != "fixed":
            raise ConfigError("batch.variance", "none", f"norms or vmap with the rule {rule!r}")
        if self.pruning.size and not self.prunes:
            allowed = f"empty with the method {self.method!r}, which removes no unit by its gate"
            raise ConfigError("pruning.size", self.pruning.size, allowed)
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
    def own(self) -> tuple[str, ...]:
        """The fields that name code of one's own, criteria aside: those of model, data, ..."""
        texts = {f"{each}.name": [getattr(self, each).name] for each in _OF_ONES_OWN}
        texts["extension"] = [self.extension]
        texts |= {"loss.metrics": self.loss.metrics, "batch.rule": [self.batch.rule]}
        return tuple(field for field, named in texts.items() if any(map(is_own, named)))

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


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded(Config):
    """A config that was read back, from a run's config.json or a result: it runs nobody's code.

    It equals the `Config` of the same fields, and what `dataclasses.replace` makes of it is as
    `Recorded` as it is.
    """

    origin: ClassVar[Origin] = Origin.FILE

    def __eq__(self, other):
        return isinstance(other, Config) and to_dict(self) == to_dict(other)

    __hash__ = Config.__hash__


SECTIONS = {
    field.name: field.default_factory
    for field in dataclasses.fields(Config)
    if field.default_factory is not dataclasses.MISSING
}

# A finished run may be lengthened, and where things lie is no part of what is computed.
FREE_ON_RESUME = frozenset(
    {"epochs", "devices", "data.dir", "data.cache_dir", "data.resident", "start.weights",
     "compiling.cache_dir", "checkpoint.every", "checkpoint.keep", "records.writers"}
)  # fmt: skip
# Sections and fields that no compiled program depends on: their numbers go in as arguments.
NOT_COMPILED = frozenset(
    {"name", "seed", "epochs", "start", "scores", "memory", "compiling", "checkpoint", "records",
     "data.dir", "data.cache_dir", "batch.size", "batch.alpha", "batch.eta", "batch.overhead",
     "penalty.lam", "pruning.gamma", "pruning.size"}
)  # fmt: skip


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


def tuple_fields(further: Mapping[str, type] = MappingProxyType({})) -> tuple[str, ...]:
    """Those fields of `field_names` that hold tuples.

    >>> tuple_fields()
    ('data.classes', 'model.hidden', 'loss.metrics', 'pruning.groups', 'memory.allow',
     'records.writers')
    """
    return tuple(
        name for name in field_names(further) if isinstance(_field(name, further).default, tuple)
    )


def _field(name: str, further: Mapping[str, type]) -> dataclasses.Field:
    section, _, last = name.rpartition(".")
    holder = {**SECTIONS, **further}[section] if section else Config
    return holder.__dataclass_fields__[last]


def rule(name: str, further: Mapping[str, type] = MappingProxyType({})) -> Rule:
    """What the field of this dotted name accepts."""
    return _field(name, further).metadata["rule"]


def allowed(name: str, further: Mapping[str, type] = MappingProxyType({})) -> str:
    """What the field of this dotted name accepts, as a phrase.

    >>> allowed("pruning.gamma")
    'a number from 0 to 1'
    """
    return rule(name, further).allowed


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


def from_dict(values: Mapping[str, Any]) -> Recorded:
    """The config that `to_dict` gave nested mappings of; what is missing takes its default.

    The mappings may come from anybody's file, so the config names no code of one's own: a person's
    is a `Config(...)`, or comes from `from_config_dict`.

    Raises:
      UserError: a name is not a field (with the nearest names), or a section is no mapping.
      ConfigError: a value is not allowed.
    """
    return Recorded(**_fields(values))


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
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
    return arguments


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
    """The config of a person, who named its file with overrides; the errors are `from_dict`'s."""
    return Config(**_fields(values.to_dict()))


def of_person(config: Config) -> Config:
    """The same config as one that a person gave, who says that the code it names may be run."""
    names = [field.name for field in dataclasses.fields(Config)]
    return Config(**{name: getattr(config, name) for name in names})


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


def compiled(config: Config) -> tuple[Any, ...]:
    """What programs are compiled for, beside sizes: runs that have it in common may share them.

    >>> compiled(Config(seed=1)) == compiled(Config(seed=2)) != compiled(Config(devices=2))
    True
    """
    return tuple(
        value
        for name, value in flatten(config).items()
        if not {name, name.split(".")[0]} & NOT_COMPILED
    )


def differences(earlier: Config, now: Config) -> list[str]:
    """What keeps `now` from going on where `earlier` stopped, a phrase per field.

    Fewer epochs than before differ; more do not, unless the learning rate's schedule is over all
    of them; nor do paths and the upkeep of checkpoints, nor the number of devices and what is
    streamed to them, unless they decide what fits by the run's meter.
    """
    free = FREE_ON_RESUME - METERS[now.memory.meter].decided_by
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
