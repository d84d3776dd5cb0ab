"""What the entries of a result file have to be, before tables, figures and calibration use them."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from dynhp_jax.errors import UserError
from experiments.reproduction import rows
from experiments.reproduction.published import TABLES


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
      what: in words, for the line that names a damaged file.
      holds: whether a value is one.
    """

    what: str
    holds: Callable[[Any], bool]


def fault(result: Any, kinds: Mapping[str, Kind]) -> str | None:
    """What keeps the content of a file from being a result, as a phrase; None if nothing does.

    Args:
      result: what was read.
      kinds: of the entries that every result has.
    """
    if not isinstance(result, Mapping):
        return "it is no JSON object"
    for name, kind in kinds.items():
        if name not in result:
            return f"it has no {name}"
        if not kind.holds(result[name]):
            return f"its {name} is not {kind.what}"
    return None


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) < math.inf  # which NaN is not, either


def _is_row(value: Any) -> bool:
    try:
        rows.parse(value)
    except (UserError, AttributeError):  # AttributeError: no text at all
        return False
    return True


def _are_units(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_whole, value.values()))


def _are_curves(value: Any) -> bool:
    """Columns of numbers, equally long, with those that every run has among them."""
    if not isinstance(value, Mapping) or not value.keys() >= _CURVES:
        return False
    columns = value.values()
    if not all(isinstance(column, list) and column for column in columns):
        return False
    alike = len({len(column) for column in columns}) == 1
    return alike and all(_is_number(each) for column in columns for each in column)


_CURVES = {"epoch", "test_error", "batch_size", "parameters", "memory_kib", "variance_ratio"}

TEXT = Kind("a text", lambda value: isinstance(value, str))
COUNT = Kind("a whole number, 0 or more", _is_whole)
NUMBER = Kind("a finite number", _is_number)
NUMBER_OR_NULL = Kind("a finite number or null", lambda v: v is None or _is_number(v))
MAPPING = Kind("an object", lambda value: isinstance(value, Mapping))
_POSITIVE = Kind("a whole number, 1 or more", lambda value: _is_whole(value, 1))
_PIXELS = Kind(
    "a list of whole numbers or null",
    lambda v: v is None or (isinstance(v, list) and all(map(_is_whole, v))),
)

OF_A_RUN: Mapping[str, Kind] = {
    "row": Kind("the name of a row", _is_row),
    "table": Kind("2 or 3", lambda value: _is_whole(value) and value in TABLES),
    "seed": COUNT,
    "epochs": _POSITIVE,
    "test_error": NUMBER,
    "best_test_error": NUMBER,
    "validation_error": NUMBER_OR_NULL,
    "units": Kind("an object of whole numbers", _are_units),
    "parameters": _POSITIVE,
    "model_kib": NUMBER,
    "training_memory": NUMBER,
    "batch_size": _POSITIVE,
    "config": MAPPING,
    "kept_inputs": _PIXELS,
    "curves": Kind(f"lists of numbers, as many in each, with {', '.join(sorted(_CURVES))}",
                   _are_curves),
}  # fmt: skip
