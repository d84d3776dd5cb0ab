"""What the entries of a result file have to be, before tables, figures and calibration use them."""

from collections.abc import Mapping
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.common.errors import UserError
from experiments.reproduction import rows
from experiments.reproduction.published import TABLES, UNITS
from experiments.result_files import CONFIG, SEED

_ALWAYS = ("epoch", "test_error", "batch_size", "parameters", "memory_kib", "variance_ratio")


def _is_row(value: Any) -> bool:
    try:
        rows.parse(value)
    except (UserError, AttributeError):  # AttributeError: no text at all
        return False
    return True


def _alike(columns: Mapping[str, list]) -> bool:
    return len({len(column) for column in columns.values()}) == 1


def _curves() -> schema.Kind:
    """Columns of numbers, equally long, with those that every run has among them."""
    column, alike = schema.list_of(schema.NUMBER, 1), schema.Kind("columns of one length", _alike)
    epochs = schema.rising(schema.POSITIVE, "in rising order")
    known = schema.fields({name: epochs if name == "epoch" else column for name in _ALWAYS})
    every = schema.mapping_of(column)

    def parts(value):
        return [*known.parts(value), *every.parts(value), ("", value, alike)]

    return schema.Kind(every.what, every.holds, parts)


OF_A_RUN = schema.fields(
    {
        "row": schema.Kind("the name of a row", _is_row),
        "table": schema.Kind("2 or 3", lambda v: isinstance(v, int) and v in TABLES),
        "seed": SEED,
        "epochs": schema.POSITIVE,
        "test_error": schema.NOT_NEGATIVE,
        "best_test_error": schema.NOT_NEGATIVE,
        "validation_error": schema.optional(schema.NOT_NEGATIVE),
        "units": schema.fields(dict.fromkeys(UNITS, schema.POSITIVE)),
        "parameters": schema.POSITIVE,
        "model_kib": schema.NOT_NEGATIVE,
        "training_memory": schema.NOT_NEGATIVE,
        "batch_size": schema.POSITIVE,
        "config": CONFIG,
        "kept_inputs": schema.optional(
            schema.rising(schema.whole(0, UNITS["input"] - 1), "in rising order")
        ),
        "curves": _curves(),
    }
)
