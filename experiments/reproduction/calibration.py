"""Which alpha would make the mini-batch grow as the paper's does, from measured ratios.

The rule adds floor((1 - alpha) ||S||_1 / F) examples per epoch, so nothing while the ratio is below
1 / (1 - alpha). The ratio depends on how the loss is scaled: a published alpha need not mean the
same here. What can be compared is how large the mini-batch becomes: the published training memory
and model size say what it was, on average and at most (`published.Line.mean_batch`).
"""

from collections.abc import Sequence
from pathlib import Path

from dynhp_jax.batch_size.rules import calibrate_alpha
from dynhp_jax.common.errors import UserError
from experiments import reports
from experiments.reproduction import tables
from experiments.reproduction.published import Table
from experiments.reproduction.rows import FIRST_BATCH, Row
from experiments.reproduction.settings import Settings
from experiments.result_files import Result


def proposals(
    directory: Path,
    table: Table,
    settings: Settings,
    wanted: Sequence[Row],
    epochs: int | None,
) -> str:
    """A table of the published alphas and those proposed here.

    Args:
      directory: of the results.
      table, settings: which one, and what its rows mean; results of other settings do not count.
      wanted: rows whose results have the ratios; those that are not DynHP's measure none.
      epochs: of those results; None: the longest.

    Raises:
      UserError: there are no such results, or the rule of a row is applied by step.
    """
    for row in wanted:
        if row.fields.get("batch.every") == "step":
            raise UserError(
                f"row {row.name}: only the rule by epoch can be calibrated; leave out per-step"
            )
    names = {row.name for row in wanted if row.kind == "dynhp"}
    found = [
        each
        for each in tables.current(directory, table, settings)[0]
        if each["row"] in names and epochs in (None, each["epochs"])
    ]
    if not found:
        raise UserError(
            f"no result in {directory} to calibrate with; run a DynHP row of table"
            f" {table.number} first, such as --rows=dynhp-1 (its mini-batch stays at {FIRST_BATCH})"
        )
    longest = max(each["epochs"] for each in found)
    found = [each for each in found if each["epochs"] == longest]
    lines = [("source", "seed", "published", "mini-batch there", "proposed")]
    for each in found:
        ratios = ratios_of(each)
        for line in table.lines:
            if line.alpha is None:
                continue
            lines.append(
                (
                    each["row"],
                    f"{each['seed']}",
                    f"{line.alpha:g}",
                    f"{line.mean_batch}",
                    _proposed(ratios, line.mean_batch),
                )
            )
    return "\n".join(
        [
            f"Table {table.number}, {table.title}: alphas that take the mini-batch from"
            f" {FIRST_BATCH} to the paper's mean within {longest} epochs",
            "",
            *reports.columns(lines),
        ]
    )


def ratios_of(result: Result) -> list[float]:
    """||S||_1 / F of every epoch; of those left out of the curves, the next one's that is there."""
    curves, ratios = result["curves"], []
    for epoch, ratio in zip(curves["epoch"], curves["variance_ratio"], strict=True):
        ratios += [ratio] * (epoch - len(ratios))
    return ratios


def _proposed(ratios: Sequence[float], target: int) -> str:
    try:
        return f"{calibrate_alpha(ratios, FIRST_BATCH, target):g}"
    except ValueError:  # not even alpha = 0 reaches it
        return "none"
