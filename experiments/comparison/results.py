"""One JSON file per cell: a criterion, a fraction and a seed, or a method with gates.

Each holds its config, commit, versions and machine, so that files of several machines are merged by
copying them into one directory.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.training.config import Config
from experiments import result_files
from experiments.result_files import CONFIG, SEED, Result

_UNITS = schema.mapping_of(schema.POSITIVE, 1)
_ERRORS = schema.mapping_of(schema.NOT_NEGATIVE, 1)
_OF_A_CELL = schema.fields(
    {
        "row": schema.TEXT,
        "seed": SEED,
        "fraction": schema.optional(schema.NOT_NEGATIVE),
        "removed": schema.NUMBER,
        "units_removed": schema.NUMBER,
        "units": _UNITS,
        "test_error": schema.NOT_NEGATIVE,
        "seconds": schema.NOT_NEGATIVE,
        "warm_up": schema.POSITIVE,
        "test_examples": schema.POSITIVE,
        "config": CONFIG,
    },
    optional={"tuning_seconds": schema.NOT_NEGATIVE, "pruned_test_error": schema.NOT_NEGATIVE},
)
_OF_A_CRITERION = schema.fields({"score_seconds": schema.NOT_NEGATIVE})
_TUNED = schema.fields({"delta": schema.NUMBER, "validation_error_by_delta": _ERRORS})


def _parts(result: Mapping[str, Any]) -> Iterator[tuple[str, Any, schema.Kind]]:
    """Those of every cell, and those that cells of its kind have."""
    yield from _OF_A_CELL.parts(result)
    if result.get("fraction"):
        yield from _OF_A_CRITERION.parts(result)
    if "delta" in result:
        yield from _TUNED.parts(result)


_RESULT = schema.Kind(_OF_A_CELL.what, _OF_A_CELL.holds, _parts)


def path_of(directory: Path, row: str, what: str, seed: int) -> Path:
    """Where a cell's result lies; `what` tells the cells of a row apart.

    >>> path_of(Path(), "flexrel(delta=0.5)", "f0.7", 0).name
    'flexrel_delta=0.5-f0.7-seed0.json'
    """
    name = re.sub(r"[^\w.=]+", "_", row).strip("_")
    return directory / "-".join(filter(None, (name, what, f"seed{seed}.json")))


def current(path: Path, config: Config, warm_up: int, examples: int) -> dict[str, Any] | None:
    """The result that is there already; None if there is none.

    Args:
      path: of the file.
      config: that the cell has.
      warm_up: its epochs.
      examples: of the test set, that are used.

    Raises:
      UserError: it is of another config, or no result.
    """
    found = result_files.read(path, _RESULT)
    if found is None:
        return None
    differing = result_files.differences(found, config)
    for name, there, here in (
        ("epochs of fine-tuning", found["config"]["epochs"] - found["warm_up"],
         config.epochs - warm_up),
        ("epochs of warm-up", found["warm_up"], warm_up),
        ("test examples", found["test_examples"], examples),
    ):  # fmt: skip
        if there != here:
            differing.append(f"{name} (there {there}, here {here})")
    result_files.check_same(path, differing)
    return found


def write(path: Path, result: Result) -> None:
    """Writes all of the file or nothing."""
    result_files.write_lines(path, result)
