"""The figures of the comparison: accuracy against measured bytes, and what holds the bytes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.training.files.figures import COLORS, legend_beside, panels_of
from experiments.finetuning import tables
from experiments.finetuning.rows import ROWS
from experiments.intervals import interval
from experiments.result_files import Result

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STACKED = ("gradients", "floats kept", "masks kept", "transients")


def draw(found: Sequence[Result], directory: Path) -> list[Path]:
    """Writes accuracy.png and bytes.png, and returns where."""
    chosen = tables.of_chosen_rates(found)
    return [
        _accuracy(chosen, directory / "accuracy.png"),
        _bytes(chosen, directory / "bytes.png"),
    ]


def _style(row: str) -> dict:
    place = list(ROWS).index(row) if row in ROWS else len(ROWS)
    marker = _MARKERS[place // len(COLORS) % len(_MARKERS)]
    return {"color": COLORS[place % len(COLORS)], "marker": marker, "markersize": 5}


def _by_row(chosen: dict) -> dict[str, list[list[Result]]]:
    rows: dict[str, list[list[Result]]] = {}
    for (row, _), runs in chosen.items():
        rows.setdefault(row, []).append(runs)
    return {row: rows[row] for row in sorted(rows, key=lambda r: list(ROWS).index(r))}


def _points(panel, chosen: dict, at, label: bool) -> None:
    """Mean accuracy of every row over something, with its interval."""
    for row, groups in _by_row(chosen).items():
        groups = sorted(groups, key=lambda runs: at(runs))
        means = [np.mean([each["test_accuracy"] for each in runs]) for runs in groups]
        style = _style(row)
        panel.plot([at(runs) for runs in groups], means, linewidth=0.8,
                   label=row if label else None, **style)  # fmt: skip
        for runs in groups:
            accuracies = [each["test_accuracy"] for each in runs]
            if len(accuracies) > 1:
                low, high = interval(accuracies)
                panel.vlines(at(runs), low, high, color=style["color"], alpha=0.5, linewidth=0.8)
    panel.set_ylabel("test accuracy (%)")


def _accuracy(chosen: dict, path: Path) -> Path:
    """Against the bytes of the step, with the floor and full as lines; beside it, seconds."""
    any_run = next(iter(chosen.values()))[-1]

    def mib(runs: Sequence[Result]) -> float:
        return runs[-1]["bytes"]["temporaries"] / 2**20

    over = ("temporaries of the step (MiB)", "seconds an epoch")
    with panels_of(path, 1, 2, (4.8, 4.6), over, (True, False), False) as (panel, beside):
        _points(panel, chosen, mib, label=False)
        _points(beside, chosen, _seconds, label=True)
        panel.axvline(any_run["floor"] / 2**20, color="black", linestyle=":", linewidth=0.8,
                      label="forward pass alone")  # fmt: skip
        if ("full", None) in chosen:
            panel.axvline(mib(chosen["full", None]), color="black", linestyle="--", linewidth=0.8,
                          label="full step")  # fmt: skip
        handles, labels = panel.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):  # the lines, in the one legend
            beside.plot([], [], color="black", linestyle=handle.get_linestyle(), label=label)
        legend_beside(beside)
    return path


def _seconds(runs: Sequence[Result]) -> float:
    return float(np.mean([each["seconds_per_epoch"] for each in runs]))


def _bytes(chosen: dict, path: Path) -> Path:
    """What holds the temporaries, a bar for each row."""
    labels = [tables.label(key) for key in chosen]
    bars = [runs[-1]["bytes"] for runs in chosen.values()]
    size = (7.0, 0.8 + 0.28 * len(labels))
    with panels_of(path, 1, 1, size, "temporaries of the step (MiB)") as (panel,):
        start = np.zeros(len(bars))
        for part, color in zip(_STACKED, COLORS, strict=False):
            width = np.array([each[part] for each in bars]) / 2**20
            panel.barh(labels, width, left=start, color=color, label=part)
            start += width
        panel.invert_yaxis()
        legend_beside(panel)
    return path
