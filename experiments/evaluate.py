"""Loads the network that a run ended with and says how good and how large it is.

python -m experiments.evaluate --workdir=runs/digits

A member of a sweep is loaded from the sweep's checkpoint: --workdir=runs/digits-dynhp-sweep/seed0.
It takes one device, however many the run had. Directories of the run's config that do not exist
here, as on another machine, give way to the defaults (TFDS_DATA_DIR, DYNHP_CACHE). A run may come
from anybody: no code is run that its files name. A run of a model, data or loss of your own needs
--run_own_code, and their modules where the program is started.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from dynhp_jax.common import paths
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import summary
from dynhp_jax.training.files.run_directory import RUNS
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.evaluation import CONFUSION
from dynhp_jax.training.sweep import resume_sweep
from dynhp_jax.writers import screen
from experiments import commandline, reports

_OWN_CODE = ("run_own_code", "run the code that the config of the run names as module:object")


def main(argv: Sequence[str]) -> None:
    """Parses the command line, evaluates on the test set and prints."""
    _, path, own = commandline.parse(argv, with_config=False, switches=[_OWN_CODE])
    if not path:
        raise UserError("--workdir is missing: the directory of a run, such as runs/digits")
    workdir = Workdir(path)
    workdir.check_places()
    if workdir.members and not (workdir.of_sweep or workdir.config_file.exists()):
        one = workdir.path / workdir.members[0]
        raise UserError(f"{workdir.path} holds a sweep; take a member's directory, such as {one}")
    config = here(workdir.config(warn), own)
    dataset = build.dataset_of(config)
    program_cache.use_cache(config.compiling.cache_dir)
    trainer = Trainer(config, dataset, programs.Programs(known=workdir.trials))
    run = _of_sweep(trainer, workdir) if workdir.members else _single(trainer, workdir)
    _say_if_earlier(workdir, run.epoch)
    result = loop.evaluate(trainer, run.network, run.state, run.splits["test"], "test", run.chunk)
    dense, size = summary.dense_numbers(trainer), loop.size_of(trainer, run)

    print(f"{config.name}, {config.method}, {config.data.name}, after epoch {run.epoch}")
    task = trainer.whole.task
    loss = f"{task.called.replace('_', '-')} {result[task.called]:.4f}"
    print(f"test {screen.judged(result, task, '')}, {loss}")
    for group, units in size["units"].items():
        print(f"units of {group}: {units} of {dense['units'][group]}")
    print(f"parameters: {size['parameters']:,} of {dense['parameters']:,}")
    print(f"model size: {size['model_kib']:.1f} KiB of {dense['model_kib']:.1f} KiB")
    if CONFUSION in result:
        print("confusion (rows: labels, columns: predictions)")
        print(reports.confusion_table(result[CONFUSION]))


def here(config: Config, own: bool = False) -> Config:
    """A run's config as it can be evaluated by: on one device, on this machine.

    Model, data and loss of one's own are imported only if the person said so (`own`).

    The criterion goes, as nothing is pruned any more; so does the folder of compiled programs: they
    are code, and the run may be anybody's. The budget goes, too: it was for training, and by XLA's
    meter what fits would be found out anew, on other devices. Unless it decides which types the
    moments in the checkpoint have.
    """
    if config.own and not own:
        values = configuration.flatten(config)
        names = ", ".join(f"{field}={values[field]!r}" for field in config.own)
        raise UserError(
            f"the config of this run names code of one's own ({names}), and a run may be anybody's;"
            f" to have it run, add --{_OWN_CODE[0]}"
        )
    if own:
        config = configuration.of_person(config)
    memory = config.memory
    cached = "none" if config.compiling.cache_dir == "none" else ""
    if "bf16_moments" not in memory.allow:
        memory = dataclasses.replace(memory, meter="paper", budget="none")
    return dataclasses.replace(
        config,
        devices=1,
        memory=memory,
        scores=ScoreOptions(),
        data=_found(config.data, "dir", "cache_dir"),
        compiling=dataclasses.replace(config.compiling, cache_dir=cached),
    )


def _found(section: Any, *names: str) -> Any:
    """A section whose fields of these names are '' unless they name a directory that is here."""
    lost = [name for name in names if not _usable(getattr(section, name))]
    return dataclasses.replace(section, **dict.fromkeys(lost, ""))


def _usable(directory: str) -> bool:
    if directory == "none":  # no cache
        return True
    try:
        return paths.given(directory, "a directory of the run").is_dir()
    except UserError:
        return False


def _single(trainer: Trainer, workdir: Workdir) -> Run:
    found = resume.newest(trainer, workdir.checkpoints, warn)
    if found is None:
        raise UserError(f"{workdir.path} has no checkpoint yet; train in it first")
    return resume.run_of(trainer, found)


def _say_if_earlier(workdir: Workdir, epoch: int) -> None:
    """Says so where the network is not that of the last epoch: its checkpoint is not there."""
    try:
        records = workdir.records()
    except UserError:
        return  # nothing here is read from them
    if records and records[-1]["epoch"] > epoch:
        warn(
            f"{workdir.metrics_file} has epoch {records[-1]['epoch']}; the network is that of the"
            f" newest checkpoint, of epoch {epoch}"
        )


def _of_sweep(trainer: Trainer, workdir: Workdir) -> Run:
    """A member, from the checkpoint that lies in the sweep's folder."""
    name, members, folder = workdir.path.name, workdir.members, Workdir(workdir.path.parent)
    if name not in members or folder.members != members:
        raise UserError(
            f"{workdir.path} belongs to a sweep over {', '.join(members)}, which is not in"
            f" {folder.path}; put the directory back into that sweep's folder"
        )
    found = resume_sweep.newest(trainer, folder.checkpoints, warn)
    if found is None:
        raise UserError(f"{folder.path} has no checkpoint yet; go on with its sweep first")
    if list(found.host[RUNS]) != members:
        raise UserError(
            f"{workdir.sweep_file} has other members than the checkpoint, which is of"
            f" {', '.join(found.host[RUNS])}; put it back as it was"
        )
    return resume_sweep.run_of(trainer, found, members.index(name))


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
