"""One picture of a run: how the network shrinks, and what the memory that this frees goes into.

python -m experiments.shrinking --workdir=results/runs/fmnist --out=docs/images/shrinking.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dynhp_jax.training.files.figures import COLORS

_SNAPSHOTS = 5  # drawings of the network
_SIZE = (9.6, 4.8)  # inches
Record = Mapping[str, Any]


def draw(records: Sequence[Record], whole: Mapping[str, int], out: Path) -> None:
    """Writes the picture.

    Args:
      records: lines of metrics.jsonl, of a run with a budget in the paper's count of bytes.
      whole: units of each group before training.
      out: the file.
    """
    figure = plt.figure(figsize=_SIZE)
    grid = figure.add_gridspec(2, _SNAPSHOTS, height_ratios=(1, 1.7))
    for k, record in enumerate(snapshots(records)):
        _network(figure.add_subplot(grid[0, k]), record, whole)
    _memory(figure.add_subplot(grid[1, :]), records)
    figure.tight_layout()
    figure.savefig(out, dpi=120, metadata={"Software": None})
    plt.close(figure)


def snapshots(records: Sequence[Record]) -> list[Record]:
    """The first epoch, the last, and those at which the network has lost even shares between."""
    first, last = records[0]["parameters"], records[-1]["parameters"]
    shares = [k / (_SNAPSHOTS - 1) for k in range(_SNAPSHOTS - 1)]
    aims = [first + (last - first) * share for share in shares]
    return [*(next(r for r in records if r["parameters"] <= aim) for aim in aims), records[-1]]


def _network(panel, record: Record, whole: Mapping[str, int]) -> None:
    """A bar for each group, as high as its units, in the outline of the whole network."""
    tallest = max(whole.values())
    for k, (group, units) in enumerate(record["units"].items()):
        for size, style in (
            (whole[group], {"facecolor": "#eeeeee", "edgecolor": "#bbbbbb"}),
            (units, {"facecolor": COLORS[0]}),
        ):
            panel.bar(k, size / tallest, bottom=-size / tallest / 2, width=0.55, **style)
    panel.set_xlim(-0.6, len(whole) - 0.4)
    panel.set_ylim(-0.52, 0.52)
    panel.axis("off")
    units = "-".join(str(each) for each in record["units"].values())
    panel.set_title(f"epoch {record['epoch']}\n{units}", fontsize="medium")


def _memory(panel, records: Sequence[Record]) -> None:
    epochs = [each["epoch"] for each in records]
    network = [each["model_kib"] for each in records]
    total, budget = [each["memory_kib"] for each in records], records[-1]["budget_kib"]
    panel.fill_between(epochs, network, color=COLORS[0], alpha=0.45, linewidth=0, step="mid")
    panel.fill_between(epochs, network, total, color=COLORS[1], alpha=0.45, linewidth=0, step="mid")
    panel.axhline(budget, color="black", linestyle="--")
    panel.annotate(
        f"budget: {budget:,.0f} KiB", (0.99, budget), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", xytext=(0, 3), textcoords="offset points",
    )  # fmt: skip
    at = len(epochs) * 2 // 3
    middle = epochs[at]
    panel.text(middle, network[at] / 2, "network", ha="center", va="center")
    first, last = records[0]["batch_size"], records[-1]["batch_size"]
    panel.text(
        middle, (network[at] + total[at]) / 2, f"mini-batch: {first} to {last} examples",
        ha="center", va="center",
    )  # fmt: skip
    panel.set_xlim(epochs[0], epochs[-1])
    panel.set_ylim(0, budget * 1.15)
    panel.set_xlabel("epoch")
    panel.set_ylabel("memory (KiB, the paper's count)")
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="of a run with a budget")
    parser.add_argument("--out", type=Path, required=True, help="the file, PNG or SVG")
    chosen = parser.parse_args()
    lines = (chosen.workdir / "metrics.jsonl").read_text().splitlines()
    summary = json.loads((chosen.workdir / "summary.json").read_text())
    if summary["meter"] != "paper":
        parser.error(f"{chosen.workdir} counts bytes by {summary['meter']!r}; this draws 'paper'")
    draw([json.loads(line) for line in lines], summary["dense"]["units"], chosen.out)


if __name__ == "__main__":
    main()
