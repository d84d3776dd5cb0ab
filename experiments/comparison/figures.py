"""The figure of a comparison: accuracy against what is gone, mean and range over the seeds.

The ranges are upright lines, beside each other: bands of a dozen criteria would hide each other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.training.config import Config
from dynhp_jax.training.files.figures import COLORS, panels_of
from experiments.comparison import tables
from experiments.comparison.settings import Comparison, prunes_first
from experiments.result_files import Result

_STYLES = ("-", "--", ":")
_MARKERS = {"hp": "s", "dynhp": "D"}


def draw(base: Config, comparison: Comparison, found: Sequence[Result], path: Path) -> Path:
    """Writes the figure: on the left right after pruning (if all goes first), then fine-tuned."""
    pruned_first = prunes_first(base)
    values = [tables.pruned_accuracy] if pruned_first else []
    values.append(tables.accuracy)
    gone = "parameters" if base.scores.of == "parameters" else "units"
    with panels_of(path, 1, len(values), (5.2, 4.4), f"{gone} gone (%)") as panels:
        for panel, value in zip(panels, values, strict=True):
            for place, criterion in enumerate(comparison.criteria):
                color = COLORS[place % len(COLORS)]
                style = _STYLES[place // len(COLORS) % len(_STYLES)]
                label = criterion if panel is panels[-1] else None
                shift = 1.6 * ((place + 0.5) / len(comparison.criteria) - 0.5)  # percent gone
                _line(panel, comparison, found, criterion, value, color, style, label, shift)
            panel.set_ylabel("test accuracy (%)")
        if pruned_first:
            panels[0].set_title("after pruning, before fine-tuning")
        panels[-1].set_title(f"after {tables.fine_tuning(comparison)}")
        _whole_and_gates(panels[-1], base, comparison, found)
        panels[-1].legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small"
        )
    return path


def _line(
    panel,
    comparison: Comparison,
    found: Sequence[Result],
    criterion: str,
    value: Callable,
    color: str,
    style: str,
    label: str | None,
    shift: float,
) -> None:
    each = [(f, [value(r) for r in tables.of(found, criterion, f)]) for f in comparison.fractions]
    each = sorted((100 * f, values) for f, values in each if values)
    if not each:
        return
    at = [fraction + shift for fraction, _ in each]
    panel.plot(at, [np.mean(v) for _, v in each], style, color=color, linewidth=1.3, label=label,
               marker=".")  # fmt: skip
    low, high = ([pick(v) for _, v in each] for pick in (min, max))
    panel.vlines(at, low, high, color=color, alpha=0.5, linewidth=0.8)


def _whole_and_gates(panel, base: Config, comparison: Comparison, found: Sequence[Result]) -> None:
    dense = [tables.accuracy(each) for each in tables.of(found, "dense", 0.0)]
    if dense:
        panel.axhline(np.mean(dense), color="grey", linewidth=0.8, linestyle=":", label="dense")
    removed = "removed" if base.scores.of == "parameters" else "units_removed"
    for method in comparison.methods:
        each = tables.of(found, method, None)
        panel.plot(
            [100 * r[removed] for r in each], [tables.accuracy(r) for r in each],
            _MARKERS[method], color="black", markersize=4, fillstyle="none",
            label=f"{method} (gates)" if each else None,
        )  # fmt: skip
