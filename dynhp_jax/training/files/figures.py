"""The figures of one run, from its records: after the paper's Figures 1, 2, 5, 6 and 7."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from dynhp_jax.memory.meter import Meter
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.files import summary
from dynhp_jax.training.run.trainer import Trainer

_TICKS = 5  # more of them touch each other from 1,000 epochs on
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # for any eyes


def draw(records: Sequence[Mapping[str, Any]], trainer: Trainer, directory: Path) -> None:
    """Writes units.png (if there are gates), test_error.png, batch_size.png and memory.png.

    Where another metric than the error says which epoch is best, its name is in the file's.

    Args:
      records: lines of metrics.jsonl, at least one.
      trainer: of the run.
      directory: made if missing, in one that exists.
    """
    dense, task = summary.dense_numbers(trainer), trainer.whole.task
    directory.mkdir(exist_ok=True)
    epochs = [record["epoch"] for record in records]
    _units(epochs, records, dense, directory / "units.png")
    _judged(epochs, records, task, directory / f"test_{task.best}.png")
    _batch_size(epochs, records, directory / "batch_size.png")
    _memory(epochs, records, dense, trainer.meter, directory / "memory.png")


def _units(epochs, records, dense, path: Path) -> None:
    groups = list(records[-1]["units"])
    if not groups:
        return  # a dense network has no gates
    columns = min(4, len(groups))
    with panels_of(path, math.ceil(len(groups) / columns), columns) as panels:
        for panel in panels[len(groups) :]:
            panel.remove()
        for panel, group in zip(panels, groups, strict=False):
            panel.plot(epochs, [r["units"][group] for r in records], color=COLORS[0], label="left")
            panel.plot(
                epochs,
                [r["active"].get(group, r["units"][group]) for r in records],
                color=COLORS[1],
                linestyle="--",
                label="active on average",
            )
            panel.set_title(f"{group} ({dense['units'][group]})")
            panel.set_ylim(0, dense["units"][group] * 1.05)
            panel.set_ylabel("units")
        panels[0].legend(frameon=False)


def _judged(epochs, records, task: Task, path: Path) -> None:
    """What says which epoch is best, on the test set."""
    values = [record[f"test_{task.best}"] for record in records]
    unit = f" {task.unit}" if task.unit else ""
    label = f"test {task.best.replace('_', ' ')}" + (f" ({task.unit})" if task.unit else "")
    with panels_of(path) as (panel,):
        panel.plot(epochs, values, color=COLORS[0])
        best = min(range(len(values)), key=lambda k: task.cost({task.best: values[k]}))
        panel.plot(epochs[best], values[best], "o", color=COLORS[1])
        panel.annotate(
            f"best {values[best]:.2f}{unit}, last {values[-1]:.2f}{unit}",
            (0.98, 0.95), xycoords="axes fraction", ha="right", va="top",
        )  # fmt: skip
        if not task.higher:
            panel.set_ylim(*error_limits(values))
        panel.set_ylabel(label)


def error_limits(errors: Sequence[float]) -> tuple[float, float]:
    """The range of an axis of errors: the first epochs, far above the rest, may leave it."""
    settled = sorted(errors)[int(0.9 * (len(errors) - 1))]
    low, high = min(errors), max(settled, min(errors) * 1.5, min(errors) + 0.1)
    return low - 0.05 * (high - low), high + 0.15 * (high - low)


def _batch_size(epochs, records, path: Path) -> None:
    with panels_of(path) as (panel,):
        sizes = [record["batch_size"] for record in records]
        panel.step(epochs, sizes, where="mid", color=COLORS[0])
        panel.set_ylim(0, max(sizes) * 1.1)
        panel.set_ylabel("examples in a mini-batch")


def _memory(epochs, records, dense, meter: Meter, path: Path) -> None:
    total = [record["memory_kib"] for record in records]
    found = [meter.layers(record) for record in records]
    layers = {part: [each[part] for each in found] for part in found[0]}
    with panels_of(path) as (panel,):
        panel.stackplot(
            epochs, *layers.values(), labels=list(layers), colors=COLORS[: len(layers)], alpha=0.35
        )
        # The largest step may be an evaluation, above what the training step takes.
        panel.plot(epochs, total, color="black", linewidth=0.8, label="largest step")
        if records[-1]["budget_kib"] is not None:
            budget = records[-1]["budget_kib"]
            panel.axhline(budget, color="black", linestyle="--", label="budget")
        panel.axhline(dense[meter.beside], color="grey", linestyle=":", label="whole network")
        panel.set_ylim(0, None)
        panel.set_ylabel(f"memory by the meter {meter.label!r} (KiB)")
        legend_beside(panel, reverse=True)


def legend_beside(panel, **more) -> None:
    """A legend to the right of the panel, where many curves leave no room in it."""
    panel.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small", **more
    )


class panels_of:
    """Panels over epochs, row by row; saved when the block ends.

    Args:
      path: of the file.
      rows, columns: of panels.
      size: of a panel in inches, (width, height).
      over: what the panels are drawn over; or what each of them is.
      log: whether that is on a logarithmic scale; likewise.
      whole: whether it is counted in whole numbers; else its ticks are matplotlib's own.
    """

    def __init__(
        self,
        path: Path,
        rows: int = 1,
        columns: int = 1,
        size: tuple[float, float] = (3.6, 3.0),
        over: str | tuple[str, ...] = "epoch",
        log: bool | tuple[bool, ...] = False,
        whole: bool = True,
    ):
        self.path, self.over, self.log, self.whole = path, over, log, whole
        width, height = size
        self.figure, panels = plt.subplots(
            rows, columns, figsize=(max(6.0, width * columns), height * rows + 0.6), squeeze=False
        )
        self.panels = list(panels.flat)

    def __enter__(self):
        return self.panels

    def __exit__(self, kind, error, trace):
        if kind is None:
            count = len(self.panels)
            over = self.over if isinstance(self.over, tuple) else (self.over,) * count
            logs = self.log if isinstance(self.log, tuple) else (self.log,) * count
            for panel, label, log in zip(self.panels, over, logs, strict=True):
                panel.set_xlabel(label)
                if log:
                    panel.set_xscale("log")
                    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    panel.xaxis.set_major_formatter("{x:g}")
                    panel.xaxis.set_minor_formatter(NullFormatter())
                elif self.whole:
                    panel.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=True))
                panel.grid(alpha=0.25)
                panel.spines[["top", "right"]].set_visible(False)
            self.figure.tight_layout()
            self.figure.savefig(self.path, dpi=120)
        plt.close(self.figure)
