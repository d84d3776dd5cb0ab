"""Runs several seeds of a row side by side, as one program: what an accelerator is for.

A team has a directory of its own, in which each seed has one, like a sweep's. What was begun goes
on as it was begun: a seed that is in a team with its team, whoever asks for it, and a seed that was
begun alone alone. Baselines have no teams: their seeds have networks of different sizes.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynhp_jax.training import build
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.sweep.stacked import member_of
from experiments import sweep
from experiments.reproduction import results, running
from experiments.reproduction.rows import Row, config_of
from experiments.reproduction.running import Place

_SEED = "seed"  # and the number: the name of a member


def run(place: Place, row: Row, seeds: Sequence[int], epochs: int, begin: bool) -> None:
    """Writes the results that are missing of the seeds in teams.

    Args:
      place: what all runs share.
      row: a method's, no baseline.
      seeds: those that are asked for; results are written of all members of their teams.
      epochs: of the runs.
      begin: whether those that were not begun yet make a team, if they are several.

    Raises:
      UserError: a team's directory or a member's result is damaged, or of another config.
      ConfigError: a variant that is not trained side by side.
    """
    missing = {seed for seed in seeds if place.result(row, seed, epochs) is None}
    for team in list(_begun(place, row)):
        if missing & set(team):
            _run(place, row, team, epochs)
            missing -= set(team)
    fresh = sorted(seed for seed in missing if not place.workdir(row.name, seed).begun)
    if begin and len(fresh) > 1:
        _run(place, row, fresh, epochs)


def _begun(place: Place, row: Row) -> Iterator[list[int]]:
    """The teams of a row of which an epoch was trained."""
    folder = _folder(place, row, ())
    for path in sorted(folder.parent.glob("*")):
        seeds = path.name.removeprefix(folder.name)
        if seeds != path.name and _SEEDS.fullmatch(seeds) and Workdir(path).begun:
            yield _read(seeds)


def _folder(place: Place, row: Row, team: Sequence[int]) -> Path:
    name = f"{row.name}-{_SEED}s{_written(team)}"
    return place.workdirs / f"table{place.table.number}" / name


_SEEDS = re.compile(r"\d+(\.\.\d+)?(-\d+(\.\.\d+)?)*")


def _written(team: Sequence[int]) -> str:
    """Short enough for the name of a directory.

    >>> _written([0, 1, 2, 3, 7])
    '0..3-7'
    """
    by_distance = itertools.groupby(enumerate(sorted(team)), lambda pair: pair[1] - pair[0])
    runs = [[seed for _, seed in pairs] for _, pairs in by_distance]
    return "-".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _read(text: str) -> list[int]:
    """
    >>> _read("0..3-7")
    [0, 1, 2, 3, 7]
    """
    ends = [part.split("..") for part in text.split("-")]
    return [seed for run in ends for seed in range(int(run[0]), int(run[-1]) + 1)]


def _run(place: Place, row: Row, team: Sequence[int], epochs: int) -> None:
    """Trains a team, unless it went further already, and writes its results."""
    folder = _folder(place, row, team)
    missing = [place.result(row, seed, epochs) is None for seed in team]
    configs = [config_of(row, place.table, place.settings, seed, epochs) for seed in team]
    workdirs = [Workdir(folder / f"{_SEED}{seed}") for seed in team]
    lines = [running.first_epochs(*each) for each in zip(configs, workdirs, strict=True)]
    kept = [None] * len(team)
    if None in lines:
        print(f"-- {folder.name}: {epochs} epochs", flush=True)
        members = {
            workdir.path.name: config for workdir, config in zip(workdirs, configs, strict=True)
        }
        replicas, lines = sweep.run(members, build.dataset_of(configs[0]), folder, place.now)
        kept = [
            running.surviving_inputs(member.keeps, member_of(replicas.state.masks, k))
            for k, member in enumerate(replicas.members)
        ]
    for k, config in enumerate(configs):
        if missing[k]:
            found = running.result_of(place, row, config, workdirs[k], lines[k], kept[k])
            results.write(found, place.results)
