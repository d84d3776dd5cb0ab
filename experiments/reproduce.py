"""The paper's Tables 2 and 3 and its Figures 1 to 7, run and set beside what the paper prints.

    python -m experiments.reproduce --table=2 --epochs=400 --seeds=0,1,2
    python -m experiments.reproduce --table=3 --rows=sp,hp,dynhp-0.98 --epochs=2000
    python -m experiments.reproduce --table=3 --side_by_side
    python -m experiments.reproduce --table=2 --print
    python -m experiments.reproduce --figures

Each row and seed is a run that can be stopped at any time; the same command goes on, and what is
finished is skipped. With --side_by_side, for an accelerator, one program trains all seeds of a
row, but for the rows that cut a dense network. Several machines can share the work by --rows= and
--seeds=: copy the files that they leave in results/reproduction/ into one directory, then --print.
The names of rows are in experiments/reproduction/rows.py, the protocol in docs/reproduction.md.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_text
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.files import provenance
from dynhp_jax.training.sweep import team
from experiments import commandline, result_files
from experiments.reproduction import calibration, figures, results, rows, running, tables, teams
from experiments.reproduction.published import EPOCHS, TABLES, Table
from experiments.reproduction.settings import PRESENT, PROTOCOLS, Settings, directory
from experiments.values import each_once, shortest, value_of, values_of

_RESULTS = "results/reproduction"
_OPTIONS = (
    ("table", "", "2 (MNIST) or 3 (Fashion-MNIST)"),
    ("rows", "", "names with commas; empty: all of the table"),
    ("seeds", "0,1,2,3,4", "whole numbers with commas"),
    ("epochs", "", f"of a run; empty: {EPOCHS}, and with --print all that there are"),
    ("protocol", PRESENT, f"what the paper leaves open: {', '.join(PROTOCOLS)}"),
    ("lam", "", "lambda instead of the table's own setting"),
    ("alphas", "", "of our own DynHP rows, with commas, instead of the table's own setting"),
    ("validation", "", "share of the training set held out, such as 0.1: errors are those on it"),
    ("variants", "", "of every row, with '+', such as per-example, ce or FIELD=VALUE"),
    ("commit", "", "to write into results where the code does not lie in a git checkout"),
    ("results", _RESULTS, "directory of the result files"),
)
_SWITCHES = (
    ("print", "print the tables of the results that are there; with no other flag write tableN.md"),
    ("figures", "draw Figures 1 to 7 of the results that are there"),
    ("calibrate", "propose alphas from the results of --rows (one DynHP row)"),
)
_SIDE_BY_SIDE = (
    "side_by_side",
    "train all seeds of a row as one program, on an accelerator",
)
_WORKDIR = "directory in which the runs have theirs; empty: runs/reproduction"
_VARIED = ("lam", "validation", "variants")
_READ = {  # by the switches, which take no option that they would pass over
    "print": ("table", "protocol", "epochs", "alphas", "results", *_VARIED),
    "figures": ("protocol", "epochs", "variants", "results"),
    "calibrate": ("table", "protocol", "rows", "epochs", "alphas", "results", *_VARIED),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags ask for, of one table.

    Attributes:
      table, settings: what is reproduced, and with which alphas of our own.
      common: variants that all rows have.
      rows, seeds: of the runs.
      epochs: of a run; None: all that there are, or the paper's to train.
      side_by_side: whether seeds that were not begun yet are trained by one program.
      results: directory of the result files.
      complete: whether tableN.md is to be written: nothing was asked for that leaves rows out.
    """

    table: Table
    settings: Settings
    common: tuple[str, ...]
    rows: tuple[rows.Row, ...]
    seeds: tuple[int, ...]
    epochs: int | None
    side_by_side: bool
    results: Path
    complete: bool


def main(argv: Sequence[str]) -> None:
    """Parses the command line; runs what is missing, prints, draws."""
    switches = (*_SWITCHES, _SIDE_BY_SIDE)
    _, workdirs, *values = commandline.parse(argv, False, _OPTIONS, switches, workdir=_WORKDIR)
    given = dict(zip((name for name, *_ in (*_OPTIONS, *switches)), values, strict=True))
    switch = _switch(given | {"workdir": workdirs})
    if switch == "figures":
        variants = rows.parse_variants(given["variants"])
        place = _directory(given)
        with result_files.writing(place):
            written = figures.draw(place, _epochs(given), variants, _protocol(given))
        print("\n".join(map(str, written)))
        return
    asked = _asked(given)
    if switch == "calibrate":
        _check_one_row(asked.rows)
        print(calibration.proposals(
            asked.results, asked.table, asked.settings, asked.rows, asked.epochs
        ))  # fmt: skip
        return
    if not switch:
        runs = paths.given(workdirs or "runs/reproduction", "--workdir")
        _run(asked, directory(runs, given["protocol"]), given["commit"])
    _show(asked)


def _asked(given: Mapping[str, str]) -> Asked:
    """The flags, read.

    Raises:
      UserError, ConfigError: what they ask for cannot be; said before anything is run.
    """
    table, count = _table(given["table"]), _epochs(given)
    settings = _settings(_protocol(given)[table.number], given["alphas"])
    common = _common(given, settings)
    names = given["rows"].split(",") if given["rows"] else rows.default_rows(table, settings.alphas)
    wanted = each_once("rows", given["rows"], [rows.parse(n).with_variants(common) for n in names])
    wanted.sort(key=lambda row: row.base is not None)  # behind the rows whose sizes they take
    seeds = values_of("seeds", given["seeds"], "seed")
    for row in wanted:
        config = rows.config_of(row, table, settings, max(seeds), count or EPOCHS)
        if given["side_by_side"] and not row.base:
            team.check([config])
    complete = not (common or count or given["alphas"])
    return Asked(
        table, settings, common, tuple(wanted), tuple(seeds), count, given["side_by_side"],
        _directory(given), complete,
    )  # fmt: skip


def _run(asked: Asked, workdirs: Path, commit: str) -> None:
    """Every row with every seed: teams, then seed by seed, so that whole tables come early."""
    now = provenance.present(commit)
    shared = running.Place(asked.table, asked.settings, workdirs, asked.results, now)
    epochs = asked.epochs or EPOCHS
    for row in asked.rows:
        running.check(shared, row, asked.seeds, epochs, row.reference in asked.rows)
    paths.make_writable({"--workdir": workdirs, "--results": asked.results})
    for row in asked.rows:
        if not row.base:
            teams.run(shared, row, asked.seeds, epochs, asked.side_by_side)
    for seed in asked.seeds:
        for row in asked.rows:
            running.run(shared, row, seed, epochs)


def _show(asked: Asked) -> None:
    """Prints the tables of the results that are there, and writes them if they are complete.

    Raises:
      UserError: there is none, or the tables cannot be written.
    """
    found, stale = tables.build(
        asked.results, asked.table, asked.settings, asked.common, asked.epochs
    )
    if not found:
        raise UserError(_nothing(asked, len(stale)))
    note = [f"left out, of other settings than now: {', '.join(stale)}"] if stale else []
    print("\n\n".join([*(grid.text() for grid in found), *note]))
    if asked.complete:
        text = "\n".join([*(grid.markdown() for grid in found), *note])
        with result_files.writing(asked.results):
            write_text(asked.results / f"table{asked.table.number}.md", text)


def _nothing(asked: Asked, stale: int) -> str:
    """What was asked for and is not there, what is, and what to do."""
    place, number = asked.results, asked.table.number
    lengths = sorted({each["epochs"] for each in results.read_all(place, number)})
    there = ", ".join(map(str, lengths)) or "no"
    other = f", and {stale} results are of other settings than now" if stale else ""
    what = "+".join([f"table {number}", *asked.common])
    of = f" of {asked.epochs} epochs" if asked.epochs else ""
    return (
        f"there is no result of {what}{of} in {place}, where the table has results of {there}"
        f" epochs{other}; take other flags or another --results, or run it first"
    )


def _switch(given: Mapping[str, str | bool]) -> str:
    """The switch that was given; '' without one."""
    chosen = [name for name, _ in _SWITCHES if given[name]]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} are two things to do; give one")
    if not chosen:
        return ""
    (switch,) = chosen
    others = (*_OPTIONS, ("workdir", "", _WORKDIR), (_SIDE_BY_SIDE[0], False, ""))
    unread = [name for name, default, _ in others
              if given[name] != default and name not in _READ[switch]]  # fmt: skip
    if unread:
        read = ", ".join(f"--{name}" for name in _READ[switch])
        raise UserError(f"--{switch} does not read --{unread[0]}; beside it there may be {read}")
    return switch


def _check_one_row(wanted: Sequence[rows.Row]) -> None:
    """Ratios of several rows, in one table of proposals, would look like those of one."""
    if [row.kind for row in wanted] != ["dynhp"]:
        found = wanted[0].name if len(wanted) == 1 else f"{len(wanted)} rows"
        raise UserError(f"--calibrate takes one DynHP row, not {found}; such as --rows=dynhp-1")


def _protocol(given: Mapping[str, str]) -> Mapping[int, Settings]:
    name = given["protocol"]
    if name not in PROTOCOLS:
        raise UserError(f"--protocol is {name!r}; allowed: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _settings(settings: Settings, alphas: str) -> Settings:
    if not alphas:
        return settings
    return dataclasses.replace(settings, alphas=tuple(values_of("alphas", alphas, "batch.alpha")))


def _common(given: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """The variants that all rows have, by --variants, --lam and --validation."""
    variants = rows.parse_variants(given["variants"])
    if given["lam"]:
        lam = value_of("lam", given["lam"], "penalty.lam")
        if lam != settings.lam:
            variants = (*variants, f"penalty.lam={shortest(lam)}")
    if given["validation"]:
        share = value_of("validation", given["validation"], "data.validation")
        if share:
            variants = (*variants, f"data.validation={shortest(share)}")
    return variants


def _epochs(given: Mapping[str, str]) -> int | None:
    return value_of("epochs", given["epochs"], "epochs") if given["epochs"] else None


def _directory(given: Mapping[str, str]) -> Path:
    return directory(paths.given(given["results"] or _RESULTS, "--results"), given["protocol"])


def _table(text: str) -> Table:
    if text not in {str(number) for number in TABLES}:
        found = f"is {text!r}" if text else "is missing"
        raise UserError(f"--table {found}; allowed: 2 (MNIST), 3 (Fashion-MNIST)")
    return TABLES[int(text)]


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
