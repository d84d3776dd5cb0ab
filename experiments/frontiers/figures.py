"""The figure of a frontier: error against the bytes of the network, with what others published."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.training.files.figures import COLORS, panels_of
from experiments.frontiers import recipes, tables
from experiments.frontiers.published import points
from experiments.result_files import Result

_MARKERS = "osD^vP*X<>"


def draw(data: str, found: Sequence[Result], path: Path) -> Path:
    """Writes it: a mark for each row with its range over the seeds, published ones hollow."""
    with panels_of(path, 1, 1, (6.4, 4.4), "weights and biases (KiB)") as panels:
        (panel,) = panels
        for place, method in enumerate(recipes.METHODS):
            rows = [row for row in recipes.rows(data) if row.method == method]
            each = [own for row in rows if (own := tables.of(found, row))]
            if not each:
                continue
            color = COLORS[place % len(COLORS)]
            at = [np.mean([r["model_kib"] for r in own]) for own in each]
            errors = [[r["test_error"] for r in own] for own in each]
            panel.vlines(at, list(map(min, errors)), list(map(max, errors)), color=color)
            panel.plot(
                at, list(map(np.mean, errors)), _MARKERS[place % len(_MARKERS)], color=color,
                label=method,
            )  # fmt: skip
        others = points(data)
        panel.plot(
            [each.kib for each in others], [each.error for each in others], "o", color="grey",
            fillstyle="none", label="published",
        )  # fmt: skip
        panel.set_xscale("log")
        panel.set_ylabel("test error (%)")
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return path
