"""What a run says of itself: the summary and the final table beside the whole network's numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.memory.registry import METERS
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.network import CLASSIFICATION
from dynhp_jax.writers.screen import judged, value


def table(summary: Mapping[str, Any], task: Task = CLASSIFICATION) -> str:
    """The end of a run for a person: every number beside that of the whole network."""
    dense = summary["dense"]
    rows = [("", "whole", summary["method"], "left")]

    def add(name: str, whole: float, now: float, style: str = ",d"):
        rows.append((name, f"{whole:{style}}", f"{now:{style}}", f"{100 * now / whole:.0f} %"))

    for group, units in dense["units"].items():
        add(f"units of {group}", units, summary["units"][group])
    add("parameters", dense["parameters"], summary["parameters"])
    add("model size, KiB", dense["model_kib"], summary["model_kib"], ",.1f")
    add("mini-batch", dense["batch_size"], summary["batch_size"])
    add("memory at its peak, KiB", dense["memory_kib"], summary["memory_kib_peak"], ",.1f")
    label = f"training memory ({METERS[summary['meter']].label})"
    add(label, dense["training_memory"], summary["training_memory"], ".4g")
    lines = columns(rows)
    best = value(summary[f"best_test_{task.best}"], task)
    lines.append(
        f"test {judged(summary, task)} (best {best} in epoch {summary['best_epoch']});"
        f" {summary['seconds']:.0f} s, and {summary['compile_seconds']:.0f} s waiting for"
        f" {summary['compilations']} compilations"
    )
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: a rule below the first row, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def confusion_table(confusion: np.ndarray) -> str:
    """Labels by row, predictions by column."""
    width = max(len(str(confusion.max())), len(str(len(confusion) - 1))) + 1
    head = " " * 6 + "".join(str(k).rjust(width) for k in range(len(confusion)))
    rows = [
        str(label).rjust(5) + " " + "".join((str(n) if n else ".").rjust(width) for n in row)
        for label, row in enumerate(confusion)
    ]
    return "\n".join([head, *rows])
