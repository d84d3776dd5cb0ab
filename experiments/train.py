"""Trains a network by dense, soft, hard or dynamic hard pruning.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

The same command on the same workdir goes on where it stopped. Every field of the config can be
overridden: --config.method=hp --config.batch.size=100 --config.model.hidden="(300, 100)". Several
processes train one run together, each started with the same command and its --process_id.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import OwnCodeError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import going_on
from dynhp_jax.training.files.followed import FollowedWorkdir, claimed
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import agreement, checkpoint, loop
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.writers import Screen, registry
from dynhp_jax.writers.writer import Writers
from experiments import commandline, joining, reports
from experiments.commandline import Interrupted
from experiments.terminal import Interruptions


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    values, path, *others = commandline.parse(
        argv,
        True,
        joining.OPTIONS,
        joining.SWITCHES,
        workdir="directory of the run; empty: runs/NAME-METHOD-seedSEED",
    )
    config = configuration.from_config_dict(values)
    joining.join(*others)
    path = path or f"runs/{config.name}-{config.method}-seed{config.seed}"
    with claimed(path, config) as workdir:
        train(config, workdir)


def train(
    config: Config,
    workdir: Workdir | FollowedWorkdir,
    dataset: Dataset | None = None,
    begin: Callable[[Trainer], Run] = Trainer.start,
    now: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Run, list[dict[str, Any]]]:
    """Trains in a workdir that is claimed, from where an earlier run left it.

    Args:
      config: the run.
      workdir: where everything goes.
      dataset: its data, if not what the config names.
      begin: the run before its first epoch.
      now: of what commit, versions and machine its next epochs are, if not as they are found here.

    Returns:
      The trainer, the run at its end, and the lines of metrics.jsonl.
    """
    dataset = dataset or build.dataset_of(config)
    agreement.check_inputs(config, dataset.splits)
    program_cache.use_cache(config.compiling.cache_dir)
    several = [Screen(), *registry.named(config.records.writers, workdir.path, config.origin)]
    with Writers(several if processes.leads() else ()) as writers:
        known = programs.Programs(known=workdir.trials, tell=writers.compiling)
        trainer = Trainer(config, dataset, known)
        run = going_on.start(trainer, workdir, begin, print if processes.leads() else None)
        with Interruptions() as interruptions, _explained(config, workdir):
            run, records = going_on.train(trainer, run, workdir, writers, interruptions, now)
    found = going_on.finish(trainer, run, workdir, records)
    if found is not None:
        print(reports.table(found, trainer.whole.task))
        print(f"everything is in {workdir.path}")
    interruptions.after_the_last(workdir.path)
    return trainer, run, records


def one_of_many(
    config: Config,
    workdir: Workdir,
    dataset: Dataset | None = None,
    begin: Callable[[Trainer], Run] = Trainer.start,
    now: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Run, list[dict[str, Any]]]:
    """One of the runs that a table is made of; names it, claims its workdir, and is as `train`."""
    print(f"-- {workdir.path.name}: {config.epochs} epochs", flush=True)
    with workdir.claim(config):
        return train(config, workdir, dataset, begin, now)


@contextlib.contextmanager
def _explained(config: Config, workdir: Workdir) -> Iterator[None]:
    """Says of what ends a run from where the same command goes on."""
    try:
        yield
    except going_on.Paused as paused:
        raise Interrupted(str(paused)) from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped at once; {_what_is_left(workdir, config)}") from None
    except loop.Diverged as error:
        advice = "a smaller config.optimizer.learning_rate may help"
        raise UserError(f"{error}; {going_on.last_good(workdir)}; {advice}") from None
    except OwnCodeError as error:
        raise UserError(f"{error}; {going_on.last_good(workdir)}") from error


def _what_is_left(workdir: Workdir, config: Config) -> str:
    """From where the same command goes on if nothing more is saved."""
    epochs, every = checkpoint.epochs(workdir.checkpoints), config.checkpoint.every
    if epochs:
        return (
            f"epoch {epochs[-1]} of {config.epochs} is the last one that is saved in"
            f" {workdir.path}; the same command goes on from there"
        )
    return (
        f"nothing is saved yet (config.checkpoint.every is {every}), so that the same command"
        " begins with epoch 1 again"
    )


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
