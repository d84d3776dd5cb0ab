"""Runs several seeds of a row side by side, as one program: what an accelerator is for.

A team has a directory of its own, in which each seed has one, like a sweep's. What was begun goes
on as it was begun: a seed that is in a team with its team, whoever asks for it, and a seed that was
begun alone alone. Baselines have no teams: their seeds have networks of different sizes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dynhp_jax import named
from dynhp_jax.stacking import member_of
from experiments import sweep
from experiments.reproduction import results, running
from experiments.reproduction.rows import Row, config_of
from experiments.reproduction.running import Place
from experiments.workdir import Workdir

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
      UserError: a team's directory is damaged, or of another config.
      ConfigError: a variant that is not trained side by side.
    """
    missing = {seed for seed in seeds if place.result(row, seed, epochs) is None}
    for team in list(_begun(place, row)):
        if missing & set(team):
            _run(place, row, team, epochs)
            missing -= set(team)
    fresh = sorted(seed for seed in missing if not place.workdir(row.name, seed).path.exists())
    if begin and len(fresh) > 1:
        _run(place, row, fresh, epochs)


def _begun(place: Place, row: Row) -> Iterator[list[int]]:
    """The teams of a row that have a directory already."""
    folder = place.workdirs / f"table{place.table.number}"
    start = f"{row.name}-{_SEED}s"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(start):
            yield [int(name.removeprefix(_SEED)) for name in Workdir(path).members]


def _folder(place: Place, row: Row, team: Sequence[int]) -> Path:
    name = f"{row.name}-{_SEED}s{'-'.join(map(str, team))}"
    return place.workdirs / f"table{place.table.number}" / name


def _run(place: Place, row: Row, team: Sequence[int], epochs: int) -> None:
    """Trains a team, unless it went further already, and writes its results."""
    folder = _folder(place, row, team)
    configs = {
        f"{_SEED}{seed}": config_of(row, place.table, place.settings, seed, epochs) for seed in team
    }
    workdirs = [Workdir(folder / name) for name in configs]
    lines = [running.first_epochs(*each) for each in zip(configs.values(), workdirs, strict=True)]
    kept = [None] * len(team)
    if None in lines:
        print(f"-- {folder.name}: {epochs} epochs", flush=True)
        dataset = named.dataset_of(next(iter(configs.values())))
        replicas, lines = sweep.run(configs, dataset, folder, place.now)
        kept = [
            running.surviving_inputs(member.keeps, member_of(replicas.state.masks, k))
            for k, member in enumerate(replicas.members)
        ]
    for config, workdir, records, inputs in zip(
        configs.values(), workdirs, lines, kept, strict=True
    ):
        if place.result(row, config.seed, epochs) is None:
            found = running.result_of(place, row, config, workdir, records, inputs)
            results.write(found, place.results)
