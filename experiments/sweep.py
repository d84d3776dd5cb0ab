"""Trains several runs of one config side by side, as one program: seeds, lambdas, alphas, gammas.

    python -m experiments.sweep --config=configs/fmnist.py --seeds=0,1,2 --lams=0.1,0.3

Every combination is a run with a directory of its own in the workdir, with the files that
experiments.train writes but for the checkpoints, which lie in the workdir, of all members together.
Each ends where it would have ended alone, up to rounding (see dynhp_jax.training.sweep.team). The
same command goes on where it stopped; experiments.evaluate loads a member's network from its
directory. On an accelerator that a small network leaves mostly idle, several runs take little
longer than one; on a CPU they take as long as one after the other.
"""

import contextlib
import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.task_data import TaskData
from dynhp_jax.tasks.task import Task
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import figures, provenance, summary
from dynhp_jax.training.files.going_on import check_saved
from dynhp_jax.training.files.workdir import Workdir, seal
from dynhp_jax.training.network import CLASSIFICATION
from dynhp_jax.training.run.epoch_results import Diverged
from dynhp_jax.training.sweep import resume_sweep
from dynhp_jax.training.sweep.team import Replicas, Team
from dynhp_jax.writers import Screen, registry
from dynhp_jax.writers.writer import Started, Writers
from experiments import commandline, reports
from experiments.commandline import Interrupted
from experiments.terminal import Interruptions
from experiments.values import shortest, values_of

FIELDS = {
    "lams": "penalty.lam",
    "alphas": "batch.alpha",
    "gammas": "pruning.gamma",
    "seeds": "seed",
}
OPTIONS = [
    (flag, "", f"values of config.{field}, separated by commas") for flag, field in FIELDS.items()
]
MOST = 1_000  # members; a program of more takes hours to compile


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    values, path, *lists = commandline.parse(
        argv, True, OPTIONS, workdir="directory of the sweep; empty: runs/NAME-METHOD-sweep"
    )
    config = configuration.from_config_dict(values)
    members = combinations(config, dict(zip(FIELDS, lists, strict=True)))
    folder = paths.given(path or f"runs/{config.name}-{config.method}-sweep", "--workdir")
    run(members, build.dataset_of(config), folder)


def combinations(config: Config, lists: Mapping[str, str]) -> dict[str, Config]:
    """The members' configs by name: every combination of the flags' values.

    >>> list(combinations(Config(), {"seeds": "0,1", "lams": "0.1,0.3"}))
    ['seed0-lam0.1', 'seed0-lam0.3', 'seed1-lam0.1', 'seed1-lam0.3']

    Raises:
      UserError: a value that its field does not take, or given twice; none at all, or too many.
    """
    choices: list[list[tuple[str, Any]]] = []
    for flag, text in lists.items():
        if text:
            field = FIELDS[flag]
            choices.append([(field, value) for value in values_of(flag, text, field)])
    if not choices:
        raise UserError("nothing to sweep; give --seeds=0,1,2, or --lams, --alphas, --gammas")
    count = math.prod(map(len, choices))
    if count > MOST:
        raise UserError(f"the flags make {count:,} runs; allowed: {MOST:,} at most; sweep a part")
    members = {}
    for combination in itertools.product(*choices):
        name = "-".join(
            f"{field.rpartition('.')[2]}{shortest(value)}" for field, value in combination
        )
        members[name] = changed(config, dict(combination))
    return members


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A config with other values of some fields, {dotted name: value}."""
    for field, value in changes.items():
        section, _, last = field.rpartition(".")
        if section:
            inner = dataclasses.replace(getattr(config, section), **{last: value})
            config = dataclasses.replace(config, **{section: inner})
        else:
            config = dataclasses.replace(config, **{last: value})
    return config


def run(
    members: Mapping[str, Config],
    dataset: Dataset | TaskData,
    folder: Path,
    now: Mapping[str, Any] | None = None,
) -> tuple[Replicas, list[list[dict[str, Any]]]]:
    """Trains all members, from where an earlier call left them, and prints their table.

    Args:
      members: their configs, {name: config}.
      dataset: their data.
      folder: of the sweep; each member's directory, with its name, is in it.
      now: of what commit, versions and machine the next epochs are, if not as they are found here.

    Returns:
      The members at their end, and of each one the lines of its metrics.jsonl.

    Raises:
      ConfigError: members that cannot be trained side by side.
      UserError: the folder is another sweep's, a member's records do not go with its checkpoint, or
        a member's loss is no longer a number.
      Interrupted: by Ctrl-C, after everything was put in order.
    """
    folder = Workdir(folder).path
    names, configs = list(members), list(members.values())
    program_cache.use_cache(configs[0].compiling.cache_dir)
    screen = Writers([Screen()])
    writers = [
        Writers(registry.named(each.records.writers, folder / name, each.origin))
        for name, each in members.items()
    ]
    with contextlib.ExitStack() as claims:
        for each in (screen, *writers):
            claims.enter_context(each)
        team = Team(configs, dataset, programs.Programs(tell=screen.compiling))
        place = claims.enter_context(Workdir(folder).claim(None, names))
        workdirs = [
            claims.enter_context(Workdir(folder / name).claim(each, names))
            for name, each in members.items()
        ]
        interruptions = Interruptions()
        now = now or provenance.present()
        replicas, records = _train(team, place, workdirs, now, interruptions, screen, writers)
        screen.close()
        summaries = []
        for trainer, member, lines, workdir in zip(
            team.trainers, replicas.members, records, workdirs, strict=True
        ):
            check_saved(workdir, place.checkpoints, replicas.epoch)
            figures.draw(lines, trainer, workdir.figures)
            came_from = provenance.entries(provenance.stretches_of(workdir, lines))
            summaries.append(summary.summarise(trainer, member, lines) | came_from)
            write_json(workdir.summary_file, summaries[-1])
    print(table(configs, summaries, team.whole.task))
    print(f"everything is in {folder}")
    interruptions.after_the_last(folder)
    return replicas, records


def _train(
    team: Team,
    place: Workdir,
    workdirs: Sequence[Workdir],
    now: Mapping[str, Any],
    interruptions: Interruptions,
    screen: Writers,
    writers: Sequence[Writers],
) -> tuple[Replicas, list[list[dict[str, Any]]]]:
    """All epochs that are missing, in claimed workdirs."""
    config, folder = team.lead.config, place.path
    replicas = _start(team, place.checkpoints)
    place.begin(replicas.epoch)
    records = [workdir.begin(replicas.epoch) for workdir in workdirs]
    if replicas.epoch < config.epochs:
        for workdir, lines in zip(workdirs, records, strict=True):
            provenance.keep(workdir, lines, replicas.epoch, now)
    for writer, lines in zip((screen, *writers), (records[0], *records), strict=True):
        writer.begin(Started(lines[:], config.epochs, team.whole.task))
    with interruptions:
        try:
            while replicas.epoch < config.epochs:
                replicas, latest = team.advance(replicas)
                members = zip(workdirs, records, writers, latest, strict=True)
                for workdir, lines, writer, record in members:
                    workdir.append(record)
                    lines.append(record)
                    writer(record)
                screen(_middle(latest, team.whole.task))
                done = replicas.epoch == config.epochs
                if done or interruptions.wanted or replicas.epoch % config.checkpoint.every == 0:
                    with interruptions.saving():
                        _save(team, replicas, place, workdirs)
                if interruptions.wanted and not done:
                    raise Interrupted(
                        f"epoch {replicas.epoch} of {config.epochs} is saved in {folder};"
                        " the same command goes on from there"
                    )
        except Diverged as error:
            raise UserError(_without(error, workdirs, folder)) from None
    return replicas, records


def _start(team: Team, checkpoints: Path) -> Replicas:
    found = resume_sweep.newest(team.lead, checkpoints, warn)
    if found is None:
        return team.start()
    print(f"going on after epoch {found.epoch} of {team.lead.config.epochs}")
    return resume_sweep.replicas_of(team, found)


def _save(team: Team, replicas: Replicas, place: Workdir, workdirs: Sequence[Workdir]) -> None:
    place.check_there()
    keep, made_of = team.lead.config.checkpoint.keep, team.lead.made_of
    resume_sweep.save(replicas, place.checkpoints, seal(workdirs), keep, made_of)


def _without(error: Diverged, workdirs: Sequence[Workdir], folder: Path) -> str:
    """What to do where the losses of some members are no numbers."""
    whose = ", ".join(workdirs[k].path.name for k in error.members)
    return (
        f"{error}, of {whose} in {folder}; a smaller config.optimizer.learning_rate may help, or"
        " train the others without it in another --workdir"
    )


def _middle(records: Sequence[Mapping[str, Any]], task: Task) -> Mapping[str, Any]:
    """The record of the member that is in the middle by what is best on the test set."""
    return sorted(records, key=lambda record: record[f"test_{task.best}"])[len(records) // 2]


def table(
    configs: Sequence[Config],
    summaries: Sequence[Mapping[str, Any]],
    task: Task = CLASSIFICATION,
) -> str:
    """Mean and standard deviation over seeds, a row for every other setting."""
    memory = "training memory (paper)"  # the only meter of a sweep
    unit = f", {task.unit}" if task.unit else ""
    style = ".2f" if task.unit else ".4g"
    judged = f"test {task.best.replace('_', ' ')}{unit}"
    rows = [("setting", "runs", judged, f"best{unit}", "model, KiB", memory)]
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for config, found in zip(configs, summaries, strict=True):
        flat = configuration.flatten(config)
        key = tuple((field, flat[field]) for field in FIELDS.values() if field != "seed")
        groups.setdefault(key, []).append(found)
    varied = {field for key in groups for field, value in key
              if len({dict(other)[field] for other in groups}) > 1}  # fmt: skip
    for key, runs_of_it in groups.items():
        setting = ", ".join(
            f"{field.rpartition('.')[2]} {value:g}" for field, value in key if field in varied
        )

        def spread(name: str, style: str, runs_of_it=runs_of_it) -> str:
            values = [run[name] for run in runs_of_it]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            return f"{statistics.fmean(values):{style}} ± {deviation:{style}}"

        rows.append(
            (
                setting or "all",
                str(len(runs_of_it)),
                spread(f"test_{task.best}", style),
                spread(f"best_test_{task.best}", style),
                spread("model_kib", ",.1f"),
                spread("training_memory", ".3g"),
            )
        )
    return "\n".join(reports.columns(rows))


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
