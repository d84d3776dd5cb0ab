"""One recipe for each method: the config of a run, by data set, method and size.

What all share: a 784-300-100-10 network, Adam with a learning rate that falls along a cosine, noise
on the inputs, and the mean of the weights over the last epochs as what is evaluated. Methods with
gates draw them for each example and put a price on them until the network has its size, which is
within the first 20 epochs; then they learn on without. The others prune by scores. All are held to
exactly the size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dynhp_jax.common.errors import UserError
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments.reproduction.published import UNITS, WHOLE

SIZES = {"mnist": (60, 120), "fashion_mnist": (110, 236)}  # KiB of float32
EPOCHS = {"mnist": 120, "fashion_mnist": 160}
SP_BATCH = {"mnist": 512, "fashion_mnist": 128}  # the paper's: the whole network beside it is C
FIXED_BATCH = {"mnist": 100, "fashion_mnist": 128}
NOISE = {"mnist": 0.3, "fashion_mnist": 0.1}
PRICED = 20  # epochs

_RULES = {"dynhp": "dynhp", "worth": "worth", "cabs": "cabs", "doubling": "doubling"}
GATED = ("hp", "hp-16", *_RULES)  # sized by lambda
SCORED = ("gradual", "magnitude")  # sized by the fraction that goes
WHOLE_SIZED = ("dense", "sp")
DENSE_FINAL = "dense-final"  # of the sizes that another method ended with
METHODS = (*WHOLE_SIZED, *GATED, *SCORED, DENSE_FINAL)
OF_FINAL = "worth"  # whose sizes they are

# The prices of gates: that of networks which end at a size is one for all methods and sizes.
LAMBDAS = {"mnist": 2.0, "fashion_mnist": 0.2}
SOFT = {"mnist": 0.8, "fashion_mnist": 0.1}


@dataclasses.dataclass(frozen=True)
class Row:
    """A method at a size.

    Attributes:
      data: 'mnist' or 'fashion_mnist'.
      method: of `METHODS`.
      size: KiB that the network may have in the end; 0 for those that stay whole.
    """

    data: str
    method: str
    size: int = 0

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method}-{self.size}KiB" if self.size else self.method


def rows(data: str) -> list[Row]:
    """All rows of a data set; those that take the sizes of others come last."""
    found = [Row(data, method) for method in WHOLE_SIZED]
    return found + [
        Row(data, method, size) for method in (*GATED, *SCORED, DENSE_FINAL) for size in SIZES[data]
    ]


def row_of(data: str, name: str) -> Row:
    """The row of that name.

    Raises:
      UserError: there is none.
    """
    named = {row.name: row for row in rows(data)}
    if name not in named:
        raise UserError(f"{name!r} is no row; allowed: {', '.join(named)}")
    return named[name]


def config_of(
    row: Row,
    seed: int,
    *,
    epochs: int = 0,
    lam: float | None = None,
    validation: float = 0.0,
    units: Mapping[str, int] = UNITS,
) -> Config:
    """The config of a run.

    Args:
      row: what is run.
      seed: of the run.
      epochs: of it; 0: the recipe's.
      lam: instead of the recipe's.
      validation: share of the training set that is held out.
      units: of 'dense-final', {group: units}.
    """
    epochs = epochs or EPOCHS[row.data]
    fixed = FIXED_BATCH[row.data]
    values = configuration.to_dict(Config())
    values |= {"name": f"frontier_{row.data}", "seed": seed, "epochs": epochs, "method": "dense"}
    _set(values, "data", name=row.data, noise=NOISE[row.data], validation=validation)
    hidden = tuple(units[name] for name in units if name != "input")
    _set(values, "model", name="mlp", hidden=hidden)
    _set(values, "optimizer", learning_rate=0.002, schedule="cosine", ema=2.0)
    _set(values, "memory", sp_batch=SP_BATCH[row.data], budget="sp")
    _set(values, "batch", size=fixed, variance="none")
    _set(values, "checkpoint", every=20, keep=1)
    if row.method in GATED or row.method == "sp":
        _gated(values, row, lam)
    elif row.method in SCORED:
        _scored(values, row, epochs)
    return configuration.from_dict(values)


def _gated(values: dict[str, Any], row: Row, lam: float | None) -> None:
    method = "dynhp" if row.method in _RULES else row.method.partition("-")[0]
    values["method"] = method
    if lam is None:
        lam = (LAMBDAS if row.size else SOFT)[row.data]
    _set(values, "gates", per_example=True, learning_rate=0.02)
    convention = "parameters" if row.data == "fashion_mnist" else "amlab"
    _set(values, "penalty", lam=lam, warmup=4, stop=PRICED, convention=convention)
    _set(values, "pruning", stop=PRICED, size=f"{row.size}KiB" if row.size else "")
    if row.method == "hp-16":
        _set(values, "batch", size=16)
    if row.method in _RULES:
        rule = _RULES[row.method]
        _set(values, "batch", rule=rule, size=16, variance="auto", decay=0.995)
        _set(values, "batch", alpha=0.975 if row.data == "mnist" else 0.988, eta=0.1)


def _scored(values: dict[str, Any], row: Row, epochs: int) -> None:
    """Gradually by the first 20 epochs' scores, or at once after half of the epochs."""
    values["method"] = "scores"
    fraction = 1 - row.size * 1024 / (4 * WHOLE)
    _set(values, "scores", fraction=fraction, of="parameters")
    if row.method == "gradual":
        _set(values, "scores", criterion="taylor", schedule="cubic", start=2, end=PRICED)
    else:
        _set(values, "scores", criterion="l2", schedule="one_shot", start=epochs // 2)


def _set(values: dict[str, Any], section: str, **fields: Any) -> None:
    values[section] |= fields
