"""A verdict on each line of the paper's tables: confirmed, refuted or undecided.

A mean over seeds has a 95 % interval by Student's t. A quantity is confirmed where all of its
interval is within the tolerance of the printed value, refuted where all of it is without, else
undecided; so is one of a single seed, whose interval is all numbers. A line is confirmed where all
its quantities are, and refuted where one of them is.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from experiments.grids import Grid
from experiments.intervals import CONFIRMED, REFUTED, UNDECIDED, interval
from experiments.reproduction.published import EPOCHS, Line, Table
from experiments.reproduction.results import grows_on, memory_over
from experiments.reproduction.rows import Row
from experiments.result_files import Result

POINTS = 0.15  # of error
SHARE = 0.25  # of size and training memory


def of_quantity(low: float, high: float, printed: float, slack: float) -> str:
    """The verdict on a printed value, from an interval and the tolerance on either side.

    >>> of_quantity(1.38, 1.44, 1.42, 0.15), of_quantity(1.7, 1.9, 1.42, 0.15)
    ('confirmed', 'refuted')
    """
    if printed - slack <= low and high <= printed + slack:
        return CONFIRMED
    if high < printed - slack or printed + slack < low:
        return REFUTED
    return UNDECIDED


def of_line(line: Line, found: Sequence[Result]) -> dict[str, str]:
    """Verdicts on 'error', 'model' and 'memory', and on the 'line'.

    The memory of 2,000 epochs is a lower bound where a shorter run's mini-batch would go on
    growing: then it can be refuted by being too large, and not be confirmed.

    Args:
      line: of the paper.
      found: results of its row, of one number of epochs.
    """
    quantities = {
        "error": ([each["test_error"] for each in found], line.error, POINTS),
        "model": ([each["model_kib"] / 1000 for each in found], line.model, SHARE * line.model),
        "memory": ([memory_over(each, EPOCHS) for each in found], line.memory, SHARE * line.memory),
    }
    given = {}
    for name, (values, printed, slack) in quantities.items():
        low, high = interval(values)
        if name == "memory" and any(grows_on(each, EPOCHS) for each in found):
            high = math.inf
        given[name] = of_quantity(low, high, printed, slack)
    return given | {"line": together(given.values())}


def together(parts: Collection[str]) -> str:
    """Of several parts: refuted with one of them, confirmed with all."""
    if REFUTED in parts:
        return REFUTED
    return CONFIRMED if set(parts) == {CONFIRMED} else UNDECIDED


def grid(table: Table, found: Mapping[Row, Sequence[Result]], epochs: int) -> Grid | None:
    """The verdicts on all lines of which there are results; None for none.

    Args:
      table: which one.
      found: results by row, without variants.
      epochs: of the runs.
    """
    cells = [("row", "error", "model", "memory", "all three", "seeds")]
    for line in table.lines:
        own = [seeds for row, seeds in found.items() if row.name == line.name]
        if own:
            cells.append((line.name, *of_line(line, own[0]).values(), str(len(own[0]))))
    if len(cells) == 1:
        return None
    note = (
        f"within {POINTS:g} points of the printed error and {100 * SHARE:g} % of size and training"
        " memory, by the 95 % interval of the mean over seeds: all of it within: confirmed; all"
        " without: refuted; else undecided, as is a single seed"
    )
    return Grid(f"Table {table.number}, {epochs:,} epochs: verdicts", tuple(cells), (note,))
