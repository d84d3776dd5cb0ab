"""Tables of results, for a terminal and for a file."""

import dataclasses
import statistics
from collections.abc import Sequence

from experiments import reports


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table to print.

    Attributes:
      title: one line.
      cells: the header, then the rows.
      notes: below it, a line each.
    """

    title: str
    cells: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """For a terminal."""
        return "\n".join([self.title, "", *reports.columns(self.cells), "", *self.notes])

    def markdown(self) -> str:
        """For a file."""
        head, *body = self.cells
        align = ["---", *["---:"] * (len(head) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (head, align, *body)]
        return "\n".join([f"## {self.title}", "", *lines, "", *(f"- {n}" for n in self.notes), ""])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (of a sample: n - 1); None for a single one.

    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    if len(values) == 1:
        return float(values[0]), None
    return statistics.fmean(values), statistics.stdev(values)
