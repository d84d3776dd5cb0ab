"""The tables: the paper's columns beside ours, as text and as Markdown."""

import dataclasses
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path

from experiments import result_files
from experiments.grids import Grid, mean_and_deviation
from experiments.reproduction import results, rows, targets, verdicts
from experiments.reproduction.published import EPOCHS, SLIPS, Line, Table
from experiments.reproduction.rows import Row
from experiments.reproduction.settings import Settings
from experiments.result_files import Result

_NONE = "-"


def build(
    directory: Path,
    table: Table,
    settings: Settings,
    common: Sequence[str] = (),
    epochs: int | None = None,
) -> tuple[list[Grid], list[str]]:
    """A table for every number of epochs that has results, and one more of the variants of rows.

    Args:
      directory: of the result files.
      table, settings: which one, and what its rows mean.
      common: the variants that every row of it has; the others are in the table of variants.
      epochs: only of this number of them.

    Returns:
      The tables, and the names of the results that are of other settings than now.
    """
    fresh, stale = current(directory, table, settings)
    main, varied = [], []
    for length in sorted({each["epochs"] for each in fresh}):
        if epochs not in (None, length):
            continue
        by_row: dict[Row, list[Result]] = {}
        for each in fresh:
            if each["epochs"] == length:
                by_row.setdefault(rows.parse(each["row"]), []).append(each)
        first, rest = _of_length(by_row, length, table, settings, tuple(common))
        main += first
        varied += rest
    return main + varied, stale


def current(directory: Path, table: Table, settings: Settings) -> tuple[list[Result], list[str]]:
    """The results of the settings as they are now, and the names of the others."""
    fresh, stale = [], []
    for each in results.read_all(directory, table.number):
        config = rows.expected(rows.parse(each["row"]), table, settings, each)
        if result_files.differences(each, config):
            stale.append(f"{each['row']} (seed {each['seed']}, {each['epochs']} epochs)")
        else:
            fresh.append(each)
    return fresh, stale


def change(ours: float, sp: float) -> str:
    """The difference to SP as the paper prints it: in percent of SP's, without decimals.

    >>> change(1.35, 1.42), change(1.45, 1.42), change(2.874, 2.874)
    ('-5%', '+2%', '0%')
    """
    percent = round(100 * (ours - sp) / sp)
    return f"{percent:+d}%" if percent else "0%"


def _of_length(
    by_row, epochs: int, table: Table, settings: Settings, common
) -> tuple[list[Grid], list[Grid]]:
    """The table itself, if it has results, and those of its variants."""
    plain = [row for row in by_row if row.variants == common]
    printed = [rows.parse(name) for name in rows.default_rows(table, settings.alphas)]
    printed = [row.with_variants(common) for row in printed]
    further = sorted((row for row in plain if row not in printed), key=lambda row: row.name)
    if not plain:
        printed = []
    varied = sorted(
        (row for row in by_row if row not in plain and set(common) <= set(row.variants)),
        key=lambda row: row.name,
    )
    own = [row for row in printed if table.line(row.plain) is None]
    order = [row for row in printed if row not in own] + _by_kind([*own, *further])
    sp = by_row.get(Row("sp", variants=common))
    name = f"Table {table.number}, {table.title}, {epochs:,} epochs"
    with_common = f" ({' '.join(common)})" if common else ""
    main, grids = [], []
    if order:
        notes = _notes(epochs, table, settings, Row("sp", variants=common).fields)
        if not common:
            notes += (*targets.verdicts(table, by_row), targets.BEYOND[table.number])
        main.append(_grid(name + with_common, order, by_row, sp, table, common, notes))
        judged = None if common else verdicts.grid(table, by_row, epochs)
        main += [judged] if judged else []
    for title, held_out in (("variants", False), ("variants, on examples held out", True)):
        part = {row for row in varied if _held_out(row) == held_out}
        if part:
            # Errors on held-out examples are not set beside errors on the test set.
            alike = _held_out(Row("sp", variants=common)) == held_out
            base = sp if alike else None
            bases = {dataclasses.replace(row, variants=common) for row in part} if alike else set()
            shown = sorted(part | bases & by_row.keys(), key=lambda row: row.name)
            notes = ("in parentheses: the difference to SP without the variant",) if base else ()
            grids.append(_grid(f"{name}: {title}", shown, by_row, base, table, common, notes))
    return main, grids


def _held_out(row: Row) -> bool:
    """Whether the errors of the row are those on a part of the training set."""
    return row.fields.get("data.validation", 0) > 0


def _by_kind(found: Sequence[Row]) -> list[Row]:
    kinds = [*rows.METHODS, *rows.BASELINES]
    return sorted(found, key=lambda row: kinds.index(row.kind))


def _notes(epochs: int, table: Table, settings: Settings, fields) -> tuple[str, ...]:
    not_none = {
        "gates.learning_rate": settings.gates_learning_rate,
        "penalty.l2": settings.l2,
    }
    protocol = {
        "penalty.lam": settings.lam,
        "penalty.convention": settings.convention,
        "pruning.gamma": settings.gamma,
        "optimizer.name": settings.optimizer,
        "optimizer.learning_rate": settings.learning_rate,
        **{name: value for name, value in not_none.items() if value},
        "optimizer.ema": settings.ema,
        **fields,
    }
    notes = [
        ", ".join(f"{name} {value}" for name, value in protocol.items()),
        *([] if "penalty.lam" in fields else [settings.chosen]),
        "mean ± standard deviation over the seeds; in parentheses the difference to SP; errors are"
        " those after the last epoch, 'best' is the best epoch's, chosen by the test set, whatever"
        " the network's size was then (of magnitude and random that is before they are cut)",
        "model: KiB / 1000; memory: sum over the epochs of network and mini-batch, KiB / 10^6",
    ]
    if epochs != EPOCHS:
        notes.append(
            f"our memory is that of {EPOCHS:,} epochs, to compare it with the paper's: after the"
            f" {epochs:,} epochs that were run network and mini-batch are taken to stay as they are"
            " (of magnitude and random, which are cut half-way, each epoch counts"
            f" {EPOCHS / epochs:g} times); with ≥ the mini-batch would go on growing, by what the"
            " rule added in the last quarter of the epochs"
        )
    return (*notes, *(f"the paper: {slip}" for slip in SLIPS[table.number]))


def _grid(title, order, by_row, sp, table: Table, common, notes) -> Grid:
    on_validation = any(_held_out(row) for row in order)
    error = "validation_error" if on_validation else "test_error"
    header = (
        "row", "paper: error %", "validation error %" if on_validation else "error %",
        *(() if on_validation else ("best %",)),
        "paper: model", "model", "paper: memory", "memory", "units", "batch", "seeds",
    )  # fmt: skip
    cells = [header]
    for row in order:
        found = by_row.get(row, [])
        published = table.line(row.plain)
        columns = [
            _published(published, "error", ".2f"),
            _ours(found, sp, itemgetter(error), ".2f"),
        ]
        if not on_validation:
            columns.append(_ours(found, None, itemgetter("best_test_error"), ".2f"))
        columns += [
            _published(published, "model", ".3f"),
            _ours(found, sp, lambda each: each["model_kib"] / 1000, ".3f"),
            _published(published, "memory", ".3f"),
            _at_least(found) + _ours(found, sp, _memory, ".3f"),
            _units(found),
            _ours(found, None, itemgetter("batch_size"), ".0f"),
            f"{len(found)}" if found else _NONE,
        ]
        cells.append((row.without(common).name, *columns))
    return Grid(title, tuple(cells), tuple(notes))


def _published(line: Line | None, name: str, style: str) -> str:
    if line is None:
        return _NONE
    difference = getattr(line, f"{name}_change")
    tail = "" if difference is None else f" ({difference:+d}%)" if difference else " (0%)"
    return f"{getattr(line, name):{style}}{tail}"


def _ours(found: Sequence[Result], sp, value: Callable[[Result], float], style: str) -> str:
    if not found:
        return _NONE
    mean, deviation = mean_and_deviation([value(each) for each in found])
    text = f"{mean:{style}}" + ("" if deviation is None else f" ± {deviation:{style}}")
    if not sp or found is sp:
        return text
    base, _ = mean_and_deviation([value(each) for each in sp])
    return f"{text} ({change(mean, base)})"


def _memory(result: Result) -> float:
    return results.memory_over(result, EPOCHS)


def _at_least(found: Sequence[Result]) -> str:
    return "≥ " if any(results.grows_on(each, EPOCHS) for each in found) else ""


def _units(found: Sequence[Result]) -> str:
    if not found:
        return _NONE
    means = (mean_and_deviation([each["units"][g] for each in found])[0] for g in found[0]["units"])
    return "-".join(f"{mean:.0f}" for mean in means)
