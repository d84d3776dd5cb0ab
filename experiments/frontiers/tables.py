"""The table of a frontier, and which of two methods is ahead."""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.frontiers import recipes
from experiments.frontiers.published import points
from experiments.frontiers.recipes import Row
from experiments.grids import Grid, mean_and_deviation
from experiments.result_files import Result

_NONE = "-"
Column = tuple[str, Callable[[Result], Any], int]
_COLUMNS: tuple[Column, ...] = (
    ("test error %", lambda r: r["test_error"], 2),
    ("KiB", lambda r: r["model_kib"], 1),
    ("mean KiB held", lambda r: r["mean_memory_kib"], 0),
    ("measured KiB", lambda r: r["allocated_kib"], 0),
    ("mini-batch", lambda r: r["batch_size"], 0),
    ("examples, million", lambda r: r["examples_seen"] / 1e6, 2),
    ("seconds", lambda r: r["seconds"], 0),
    ("compilations", lambda r: r["compilations"], 0),
)
_HELD_OUT: Column = ("held-out error %", lambda r: r["validation_error"], 2)


def build(data: str, found: Sequence[Result], tried: str = "") -> Grid:
    """The table of a data set's results.

    Args:
      data: its name.
      found: the results.
      tried: what is other than in the recipes; then the errors are those on held-out examples.
    """
    held_out = "validation=" in tried
    columns = (_HELD_OUT, *_COLUMNS[1:]) if held_out else _COLUMNS
    cells = [("row", *(name for name, _, _ in columns), "units", "seeds")]
    for row in recipes.rows(data):
        own = of(found, row)
        if own:
            values = [_spread(own, value, digits) for _, value, digits in columns]
            units = "-".join(str(n) for n in own[0]["units"].values())
            cells.append((row.name, *values, units, str(len(own))))
    title = f"{data}: error against bytes" + (f" ({tried})" if tried else "")
    return Grid(title, tuple(cells), _notes(data, found, held_out))


def of(found: Sequence[Result], row: Row) -> list[Result]:
    """The results of a row, one per seed."""
    return [each for each in found if each["row"] == row.name]


def _spread(own: Sequence[Result], value: Callable[[Result], Any], digits: int) -> str:
    values = [value(each) for each in own]
    if any(each is None for each in values):
        return _NONE
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")


def _notes(data: str, found: Sequence[Result], held_out: bool) -> tuple[str, ...]:
    epochs = " or ".join(str(n) for n in sorted({each["config"]["epochs"] for each in found}))
    notes = [
        f"mean ± standard deviation over the seeds; {epochs} epochs; units of the first seed",
        "KiB: weights and biases in float32; held: they and a mini-batch of pixels, on average over"
        " the epochs; measured: of the largest compiled step, where it was counted",
    ]
    if not held_out:
        said = "; ".join(f"{p.name} {p.error:g} % at {p.kib:.0f}" for p in points(data))
        notes.append(f"published, of other recipes and epochs: {said}")
    return tuple(notes)
