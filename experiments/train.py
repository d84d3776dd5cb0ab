"""Trains a network by dense, soft, hard or dynamic hard pruning.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

The same command on the same workdir goes on where it stopped. Every field of the config can be
overridden: --config.method=hp --config.batch.size=100 --config.model.hidden="(300, 100)".
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import OwnCodeError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import checkpoint, loop
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer, array_part, host_part
from experiments import commandline, plots, provenance, reports
from experiments.commandline import Interrupted, warn
from experiments.events import Events, scalars
from experiments.terminal import Interruptions, Screen
from experiments.workdir import Workdir, seal


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    values, path = commandline.parse(
        argv, True, workdir="directory of the run; empty: runs/NAME-METHOD-seedSEED"
    )
    config = configuration.from_config_dict(values)
    workdir = Workdir(path or f"runs/{config.name}-{config.method}-seed{config.seed}")
    with workdir.claim(config):
        train(config, workdir)


def train(
    config: Config,
    workdir: Workdir,
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
    program_cache.use_cache(config.compiling.cache_dir)
    trainer = Trainer(config, dataset, programs.Programs(known=workdir.trials))
    run = _start(trainer, workdir, begin)
    records = workdir.begin(run.epoch)
    if run.epoch < config.epochs:
        provenance.keep(workdir, records, run.epoch, now or provenance.present())
    events = Events(workdir.tensorboard, run.epoch)
    report = Screen(run.epoch, config.epochs)
    with Interruptions() as interruptions:
        try:
            while run.epoch < config.epochs:
                run, record = loop.advance(trainer, run)
                workdir.append(record)
                records.append(record)
                events.write(run.epoch, scalars(record))
                report.show(record)
                last = run.epoch == config.epochs or interruptions.wanted
                if last or run.epoch % config.checkpoint.every == 0:
                    with interruptions.saving():
                        _save(trainer, run, workdir)
                if interruptions.wanted and run.epoch < config.epochs:
                    raise Interrupted(
                        f"epoch {run.epoch} of {config.epochs} is saved in {workdir.path};"
                        " the same command goes on from there"
                    )
        except KeyboardInterrupt:
            raise Interrupted(f"stopped at once; {_what_is_left(workdir, config)}") from None
        except loop.Diverged as error:
            advice = "a smaller config.optimizer.learning_rate may help"
            raise UserError(f"{error}; {_last_good(workdir)}; {advice}") from None
        except OwnCodeError as error:
            raise UserError(f"{error}; {_last_good(workdir)}") from error
        finally:
            report.close()
            events.close()
    check_saved(workdir, workdir.checkpoints, run.epoch)
    plots.draw(records, reports.dense_numbers(trainer), workdir.figures)
    origin = provenance.entries(provenance.stretches_of(workdir, records))
    summary = reports.summarise(trainer, run, records) | origin
    write_json(workdir.summary_file, summary)
    print(reports.table(summary))
    print(f"everything is in {workdir.path}")
    interruptions.after_the_last(workdir.path)
    return trainer, run, records


def _start(trainer: Trainer, workdir: Workdir, begin: Callable[[Trainer], Run]) -> Run:
    """The run as its newest whole checkpoint has it, or at its very beginning."""
    found = checkpoint.restore(workdir.checkpoints, trainer.state_shapes, warn)
    if found is None:
        return begin(trainer)
    trainer.check_criterion()
    run = trainer.resume(found)
    trainer.programs.compilations = found.host["compilations"]
    trainer.programs.seconds = found.host["compile_seconds"]
    trainer.programs.waited = found.host["compile_waited"]
    print(f"going on after epoch {found.epoch} of {trainer.config.epochs} in {workdir.path}")
    return run


def _save(trainer: Trainer, run: Run, workdir: Workdir) -> None:
    checkpoint.save(
        workdir.checkpoints,
        run.epoch,
        array_part(run),
        host_part(run, trainer) | seal([workdir]),
        trainer.config.checkpoint.keep,
    )


def check_saved(workdir: Workdir, checkpoints: Path, epoch: int) -> None:
    """Raises UserError unless the run is still in its directory, with the end that was saved."""
    workdir.check_there()
    if checkpoint.epochs(checkpoints)[-1:] != [epoch]:
        raise UserError(
            f"the checkpoint of epoch {epoch} was removed from {checkpoints} while the run went on,"
            " so that it ends here; the same command goes on from what is left"
        )


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


def _last_good(workdir: Workdir) -> str:
    epochs = checkpoint.epochs(workdir.checkpoints)
    if not epochs:
        return "there is no checkpoint yet"
    return f"the checkpoint of epoch {epochs[-1]} is kept in {workdir.checkpoints}"


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
