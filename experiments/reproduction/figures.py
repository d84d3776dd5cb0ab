"""Figures 1 to 7 of the paper, of the results that are there: mean over seeds, and their range."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.training.files.figures import COLORS, error_limits, legend_beside, panels_of
from experiments.reproduction import rows, tables
from experiments.reproduction.published import CLASSES, METER, TABLES, UNITS, Table
from experiments.reproduction.results import mean_curve
from experiments.reproduction.rows import Row
from experiments.reproduction.settings import SETTINGS, Settings
from experiments.result_files import Result

ByRow = Mapping[Row, Sequence[Result]]
Named = Sequence[tuple[Row, Result]]

_SP, _HP = Row("sp"), Row("hp")
_STYLES = ("-", "--", ":")
_WITH_LEGEND = (5.2, 3.0)  # inches of a panel and the legend beside it
_SETTLED = 0.05  # of all epochs: in these errors fall by more than alphas differ later
_BATCHES = (16, 32, 64, 100, 128, 256, 512)


def draw(
    directory: Path,
    epochs: int | None = None,
    common: Sequence[str] = (),
    protocol: Mapping[int, Settings] = SETTINGS,
) -> list[Path]:
    """Writes figure_1.png to figure_7.png; those without any result are left out.

    Args:
      directory: of the result files; the figures go into its folder figures, those with variants
        into one there with the variants' name.
      epochs: of the runs that are drawn; None: for each figure and table the run length for which
        the most of its curves exist, of equals that with the most seeds, then the longest.
      common: variants that all rows have which are drawn.
      protocol: of the results, by table.

    Returns:
      What was written.

    Raises:
      UserError: there is no result to draw.
      OSError: a figure cannot be written.
    """
    found = {
        number: _named(directory, table, protocol[number], common)
        for number, table in TABLES.items()
    }
    if epochs:
        found = {number: [(row, each) for row, each in named if each["epochs"] == epochs]
                 for number, named in found.items()}  # fmt: skip
    if not any(found.values()):
        of = f" of {epochs} epochs" if epochs else ""
        raise UserError(f"there is no result{of} in {directory} to draw; run --table=2 or 3 first")
    folder = directory / "figures" / "+".join(common)
    folder.mkdir(parents=True, exist_ok=True)
    shown = _chosen(found)
    pair, plain, alphas = shown["pair"], shown["plain"], shown["alphas"]
    written = [
        _units(pair, folder / "figure_1.png"),
        _model(pair, folder / "figure_2.png"),
        *(
            _batches(shown["batches"].get(number, {}), TABLES[number], folder / f"figure_{k}.png")
            for number, k in ((2, 3), (3, 4))
        ),
        _by_alpha(plain, "test_error", "test error (%)", folder / "figure_5.png"),
        _by_alpha(alphas, "batch_size", "examples in a mini-batch", folder / "figure_6.png"),
        _by_alpha(plain, "memory_kib", "network and mini-batch (KiB)", folder / "figure_7.png"),
    ]
    return [path for path in written if path]


def _named(directory: Path, table: Table, settings: Settings, common: Sequence[str]) -> Named:
    """The results that a figure may show, with their rows without the common variants."""
    current, _ = tables.current(directory, table, settings)
    named = [(rows.parse(each["row"]), each) for each in current]
    named = [(row.without(common), each) for row, each in named if set(common) <= set(row.variants)]
    return [(row, each) for row, each in named if _drawn(row)]


def _chosen(found: Mapping[int, Named]) -> dict[str, dict[int, ByRow]]:
    """What the figures show of each table, without tables of which there is nothing."""
    wanted = {
        "pair": lambda row, table: row in (_SP, _HP),
        "plain": lambda row, table: not row.variants,
        "alphas": lambda row, table: row.kind == "dynhp" and not row.variants,
        "batches": lambda row, table: row in _of_batches(table),
    }
    chosen = {}
    for what, wants in wanted.items():
        by_table = {
            number: _of_one_length([each for each in named if wants(each[0], TABLES[number])])
            for number, named in found.items()
        }
        chosen[what] = {number: by_row for number, by_row in by_table.items() if by_row}
    return chosen


def _of_one_length(named: Named) -> ByRow:
    """The results of all of these rows that have the same number of epochs.

    Of that of which the most rows are there, of several such with the most seeds of every row, and
    of several such the largest: long runs that are not all there yet must not take the place of
    shorter ones that are.
    """
    by_length: dict[int, dict[Row, list[Result]]] = {}
    for row, each in named:
        by_length.setdefault(each["epochs"], {}).setdefault(row, []).append(each)

    def there(epochs: int) -> tuple[int, int, int]:
        of_rows = by_length[epochs].values()
        return len(of_rows), min(map(len, of_rows)), epochs

    return by_length[max(by_length, key=there)] if by_length else {}


def _of_batches(table: Table) -> dict[Row, tuple[str, int]]:
    """The rows of Figures 3 and 4: method and mini-batch of each."""
    own = {"sp": table.sp_batch, "hp": table.hp_batch}
    return {
        Row(kind, variants=() if batch == own[kind] else (f"batch.size={batch}",)): (kind, batch)
        for kind in own
        for batch in _BATCHES
    }


def _drawn(row: Row) -> bool:
    """Whether a figure shows this row."""
    return row.kind in ("sp", "hp", "dynhp") and set(row.fields) <= {"batch.size"}


def _line(panel, results: Sequence[Result], curve, **style) -> None:
    """The mean of a curve, or of what a function makes of the results, and the seeds' range."""
    epochs, mean, each = curve(results) if callable(curve) else mean_curve(results, curve)
    panel.plot(epochs, mean, linewidth=1.2, **style)
    if len(each) > 1:
        panel.fill_between(
            epochs, each.min(0), each.max(0), color=style["color"], alpha=0.15, linewidth=0
        )


def _width(
    results: Sequence[Result], name: str, group: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units of a layer, by epoch; inputs without gates have no curve, they all stay."""
    if all(f"{name}/{group}" in each["curves"] for each in results):
        return mean_curve(results, f"{name}/{group}")
    epochs, _, each = mean_curve(results, "epoch")
    each = np.full_like(each, results[0]["units"][group])
    return epochs, each.mean(0), each


def _virtual(results: Sequence[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KiB of a network of as many units as SP had active on average, by epoch."""
    epochs, _, inputs = _width(results, "active", "input")
    first = _width(results, "active", "hidden_1")[2]
    second = _width(results, "active", "hidden_2")[2]
    each = (inputs + 1) * first + (first + 1) * second + (second + 1) * CLASSES
    each = each * 4 / 1024
    return epochs, each.mean(0), each


def _network(results: Sequence[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KiB of the surviving network, by epoch."""
    epochs, _, each = mean_curve(results, "parameters")
    each = each * 4 / 1024
    return epochs, each.mean(0), each


def _virtual_memory(results: Sequence[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with SP's mini-batch."""
    epochs, mean, each = _virtual(results)
    batch = METER.memory_kib(0, results[0]["batch_size"])
    return epochs, mean + batch, each + batch


def _units(shown: Mapping[int, ByRow], path: Path) -> Path | None:
    """Figure 1: active units of SP and HP, by layer."""
    if not shown:
        return None
    with panels_of(path, len(shown), len(UNITS)) as panels:
        places = [(number, group) for number in shown for group in UNITS]
        for panel, (number, group) in zip(panels, places, strict=True):
            for row, name, color in ((_SP, "active", COLORS[0]), (_HP, "units", COLORS[1])):
                if row in shown[number]:
                    curve = functools.partial(_width, name=name, group=group)
                    _line(panel, shown[number][row], curve, color=color, label=row.kind.upper())
            panel.set_title(f"{TABLES[number].title}: {group}")
            panel.set_ylim(0, UNITS[group] * 1.05)
            panel.set_ylabel("active units")
        panels[0].legend(frameon=False)
    return path


def _model(shown: Mapping[int, ByRow], path: Path) -> Path | None:
    """Figure 2: the network's memory under SP and HP, and that of SP's active units."""
    if not shown:
        return None
    with panels_of(path, 1, len(shown)) as panels:
        for panel, (number, by_row) in zip(panels, shown.items(), strict=True):
            if _SP in by_row:
                _line(panel, by_row[_SP], _network, color="black", label="SP")
                style = {"color": "grey", "linestyle": "--", "label": "SP (virtual)"}
                _line(panel, by_row[_SP], _virtual, **style)
            if _HP in by_row:
                _line(panel, by_row[_HP], _network, color=COLORS[1], label="HP")
            panel.set_title(TABLES[number].title)
            panel.set_ylim(0, None)
            panel.set_ylabel("network (KiB)")
            panel.legend(frameon=False)
    return path


def _batches(by_row: ByRow, table: Table, path: Path) -> Path | None:
    """Figures 3 and 4: test error of SP and of HP at several mini-batches."""
    shown: dict[str, dict[int, Sequence[Result]]] = {}
    for row, (kind, batch) in _of_batches(table).items():
        if row in by_row:
            shown.setdefault(kind, {})[batch] = by_row[row]
    if not shown:
        return None
    drawn = [results for of_batch in shown.values() for results in of_batch.values()]
    limits = error_limits(_errors(drawn))  # of both panels, to compare them by eye
    with panels_of(path, 1, len(shown), _WITH_LEGEND) as panels:
        for panel, (kind, of_batch) in zip(panels, shown.items(), strict=True):
            for batch, results in of_batch.items():
                color = COLORS[_BATCHES.index(batch) % len(COLORS)]
                style = _STYLES[_BATCHES.index(batch) // len(COLORS)]
                _line(panel, results, "test_error", color=color, linestyle=style, label=f"{batch}")
            panel.set_title(f"{table.title}: {kind.upper()}")
            panel.set_ylim(*limits)
            panel.set_ylabel("test error (%)")
            legend_beside(panel, title="mini-batch")
    return path


def _by_alpha(shown: Mapping[int, ByRow], name: str, what: str, path: Path) -> Path | None:
    """Figures 5 to 7: a curve of DynHP for every alpha, and of SP and HP where they are shown."""
    if not shown:
        return None
    with panels_of(path, 1, len(shown), _WITH_LEGEND) as panels:
        for panel, (number, by_row) in zip(panels, shown.items(), strict=True):
            fixed = [row for row in (_SP, _HP) if row in by_row]
            alphas = sorted((row for row in by_row if row not in fixed), key=lambda row: row.alpha)
            for row in (*fixed, *alphas):
                place = alphas.index(row) if row in alphas else 0
                color = {_SP: "black", _HP: "grey"}.get(row, COLORS[place % len(COLORS)])
                style = _STYLES[place // len(COLORS) % len(_STYLES)]
                label = row.kind.upper() if row.alpha is None else f"DynHP {row.alpha:g}"
                _line(panel, by_row[row], name, color=color, linestyle=style, label=label)
            if name == "memory_kib" and _SP in by_row:
                style = {"color": "black", "linestyle": "--", "label": "SP (virtual)"}
                _line(panel, by_row[_SP], _virtual_memory, **style)
            panel.set_title(TABLES[number].title)
            panel.set_ylim(*(_close_limits(by_row.values()) if name == "test_error" else (0, None)))
            panel.set_ylabel(what)
            legend_beside(panel)
    return path


def _errors(drawn: Iterable[Sequence[Result]], settled: float = 0.0) -> list[float]:
    """Test errors of all results, after this share of their epochs."""
    return [
        error
        for results in drawn
        for each in results
        for epoch, error in zip(each["curves"]["epoch"], each["curves"]["test_error"], strict=True)
        if epoch > settled * each["epochs"]
    ]


def _close_limits(drawn: Iterable[Sequence[Result]]) -> tuple[float, float]:
    """The range of the errors once they have settled, in which alphas can be told apart."""
    errors = _errors(drawn, _SETTLED)
    low, high = min(errors), float(np.quantile(errors, 0.99))
    room = 0.05 * max(high - low, 0.1)
    return low - room, high + room
