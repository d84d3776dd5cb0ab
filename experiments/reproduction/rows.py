"""Names of rows, and the config of a run of a row.

A name is what `--rows=` and the result files use:

    sp, hp                soft and hard pruning, at the mini-batch of the table
    dynhp-0.972           dynamic hard pruning with that alpha
    dense                 no gates and no pruning, at HP's mini-batch
    dense-final@hp        a dense network of the sizes that the row 'hp' ended with, from scratch
    magnitude@hp          dense for half of the epochs, cut to those sizes by the L2 norm of every
                          unit's weights, and trained on
    random@hp             the same with units drawn at random

and any of them with variants after a '+': one of `VARIANTS`, or FIELD=VALUE of the config:

    hp+per-example        dynhp-0.95+pruning.gamma=0.3
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dynhp_jax.common import literals, paths
from dynhp_jax.common.errors import ConfigError, UserError, shown
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments.reproduction.published import UNITS, Table
from experiments.reproduction.settings import (
    ADAM_RATE,
    RHO,
    SGD_GATES_RATE,
    SGD_RATE,
    Settings,
)
from experiments.values import shortest

METHODS = ("sp", "hp", "dynhp", "dense")
BASELINES = ("dense-final", "magnitude", "random")
VARIANTS: dict[str, dict[str, Any]] = {
    "per-example": {"gates.per_example": True},
    "ce": {"batch.loss": "cross_entropy"},
    "per-step": {"batch.every": "step"},
    "adam": {
        "optimizer.name": "adam",
        "optimizer.learning_rate": ADAM_RATE,
        "gates.learning_rate": 0.0,
    },
    "sgd": {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": SGD_RATE,
        "gates.learning_rate": SGD_GATES_RATE,
    },
    "l2": {"penalty.l2": RHO},
    "no-l2": {"penalty.l2": 0.0},
    "no-pixels": {"gates.inputs": False},
    "no-mean": {"optimizer.ema": 0.0},
}
FIRST_BATCH = 16  # of DynHP, as the paper has it
CHECKPOINT_EVERY = 20  # epochs; saving takes about as long as a short epoch


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, read from its name.

    Attributes:
      kind: one of METHODS or BASELINES.
      alpha: of dynhp, else None.
      base: for a baseline, the name (without variants) of the row whose sizes it takes.
      variants: what follows the '+' signs, in order.
    """

    kind: str
    alpha: float | None = None
    base: str | None = None
    variants: tuple[str, ...] = ()

    def __post_init__(self):
        if len(set(self.variants)) < len(self.variants):
            raise UserError(f"row {shown(self.name)} has a variant twice; give each once")
        if not paths.is_file_name(self.name):
            raise UserError(f"row {shown(self.name)} is not possible: no file can have such a name")

    @property
    def plain(self) -> str:
        """The name without variants."""
        if self.alpha is not None:
            return f"{self.kind}-{shortest(self.alpha)}"
        return f"{self.kind}@{self.base}" if self.base else self.kind

    @property
    def name(self) -> str:
        """The whole name; `parse(name)` gives this row again."""
        return "+".join((self.plain, *self.variants))

    @property
    def reference(self) -> "Row | None":
        """The row whose sizes a baseline takes; None for a method."""
        return parse("+".join((self.base, *self.variants))) if self.base else None

    @property
    def cut_half_way(self) -> bool:
        """Whether its network becomes smaller in the middle of the run, however long that is."""
        return self.kind in ("magnitude", "random")

    @property
    def fields(self) -> dict[str, Any]:
        """The config's fields that the variants set, by dotted name."""
        found: dict[str, Any] = {}
        for variant in self.variants:
            found.update(_setting(variant))
        return found

    def with_variants(self, variants: Sequence[str]) -> "Row":
        """The same row with these variants in front of its own, each once."""
        return dataclasses.replace(self, variants=(*variants, *self.without(variants).variants))

    def without(self, variants: Sequence[str]) -> "Row":
        """The same row without these variants."""
        own = tuple(each for each in self.variants if each not in variants)
        return dataclasses.replace(self, variants=own)


def parse(name: str) -> Row:
    """Reads a row's name.

    >>> parse("magnitude@dynhp-0.95+per-example").reference.name
    'dynhp-0.95+per-example'

    Raises:
      UserError: it is none; the text says what is allowed.
    """
    head, *variants = (part.strip() for part in name.split("+"))
    kind, _, base = head.partition("@")
    for variant in variants:
        _setting(variant)
    if kind in BASELINES:
        reference = parse(base or "hp")
        if reference.kind not in ("hp", "dynhp"):
            raise UserError(f"row {name!r}: after '@' comes a row that prunes: hp or dynhp-ALPHA")
        return Row(kind, base=reference.plain, variants=tuple(variants))
    if kind in ("sp", "hp", "dense") and not base:
        return Row(kind, variants=tuple(variants))
    method, _, alpha = head.partition("-")
    if method == "dynhp" and not base:
        try:
            value = float(alpha)
        except ValueError:
            value = float("nan")
        if 0 <= value <= 1:
            return Row("dynhp", alpha=value, variants=tuple(variants))
    raise UserError(
        f"{shown(name)} is no row; rows are sp, hp, dynhp-ALPHA (0 to 1), dense,"
        " dense-final@ROW, magnitude@ROW, random@ROW"
    )


def parse_variants(text: str) -> tuple[str, ...]:
    """Reads `--variants`: 'per-example+data.examples=500'; '' is none of them."""
    variants = tuple(part.strip() for part in text.split("+")) if text else ()
    for variant in variants:
        _setting(variant)
    return variants


def _setting(variant: str) -> dict[str, Any]:
    if variant in VARIANTS:
        return VARIANTS[variant]
    field, equals, text = variant.partition("=")
    if not equals:
        raise UserError(
            f"{shown(variant)} is no variant; allowed: {', '.join(VARIANTS)}, or FIELD=VALUE of the"
            " config, such as pruning.gamma=0.3"
        )
    if field not in configuration.field_names():
        raise configuration.unknown_field(field)
    if field in ("name", "seed", "epochs", "method", "data.name"):
        raise ConfigError(field, text, "what --table, --rows, --seeds and --epochs say")
    if field in configuration.FREE_ON_RESUME:  # a path has no place in the name of a result
        raise ConfigError(field, text, "no variant: it changes no result; see DYNHP_CACHE")
    try:
        return {field: literals.literal(text)}
    except ValueError:
        return {field: text}


def default_rows(table: Table, alphas: Sequence[float]) -> list[str]:
    """The rows of a table: the paper's, then ours, then what a dense network can do.

    >>> from experiments.reproduction.published import TABLES
    >>> default_rows(TABLES[2], (0.95,))[6:]
    ['dynhp-0.975', 'dynhp-0.95', 'dense', 'dense-final@hp', 'magnitude@hp', 'random@hp']
    """
    ours = [f"dynhp-{shortest(alpha)}" for alpha in alphas if alpha not in table.alphas]
    bases = [f"{kind}@hp" for kind in BASELINES]
    return [*(line.name for line in table.lines), *ours, "dense", *bases]


def config_of(
    row: Row,
    table: Table,
    settings: Settings,
    seed: int,
    epochs: int,
    units: Mapping[str, int] = UNITS,
) -> Config:
    """The config of a run.

    Args:
      row: what is run.
      table: gives data and mini-batches.
      settings: give lambda and what else the paper leaves open.
      seed, epochs: of the run.
      units: for a baseline the sizes it has (at the end): {group: units}.

    Raises:
      ConfigError: a variant sets a field to what it must not hold.
    """
    dense = row.kind not in ("sp", "hp", "dynhp")
    batch = {"sp": table.sp_batch, "dynhp": FIRST_BATCH}.get(row.kind, table.hp_batch)
    hidden = tuple(units[name] for name in units if name != "input")
    values = configuration.to_dict(
        Config(
            name=f"table{table.number}-{row.plain}",
            seed=seed,
            epochs=epochs,
            method="dense" if dense else row.kind,
            data=configuration.Data(name=table.dataset),
            model=configuration.Model(name="mlp", hidden=hidden),
            penalty=configuration.Penalty(
                lam=settings.lam, convention=settings.convention, l2=settings.l2
            ),
            pruning=configuration.Pruning(gamma=settings.gamma),
            batch=configuration.Batch(
                size=batch,
                alpha=0.975 if row.alpha is None else row.alpha,
                decay=settings.decay,
            ),
            memory=configuration.Memory(budget="none" if dense else "sp", sp_batch=table.sp_batch),
            gates=configuration.Gates(learning_rate=settings.gates_learning_rate),
            optimizer=configuration.Optimizer(
                name=settings.optimizer, learning_rate=settings.learning_rate, ema=settings.ema
            ),
            checkpoint=configuration.Checkpoint(every=CHECKPOINT_EVERY, keep=2),
        )
    )
    if row.kind in ("sp", "hp") and "batch.size" in row.fields:
        values["memory"]["budget"] = "none"  # Figures 3 and 4: larger ones than the budget's, too
    for field, value in row.fields.items():
        if field == "model.hidden" and row.base:
            continue  # the sizes of a baseline are those of its reference
        section, _, last = field.rpartition(".")
        (values[section] if section else values)[last] = value
    return configuration.from_dict(values)


def sizes(config: Config) -> dict[str, int]:
    """The units that a run of these tables starts with, by group.

    >>> sizes(Config(model=configuration.Model(hidden=(300, 100))))
    {'input': 784, 'hidden_1': 300, 'hidden_2': 100}
    """
    hidden = {f"hidden_{i}": units for i, units in enumerate(config.model.hidden, start=1)}
    return {"input": UNITS["input"], **hidden}


def expected(row: Row, table: Table, settings: Settings, result: Mapping[str, Any]) -> Config:
    """The config that a result of this row has to be of, if it is of these settings."""
    units = result["units"] if row.base else UNITS
    return config_of(row, table, settings, result["seed"], result["epochs"], units)
