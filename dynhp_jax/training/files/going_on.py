"""A run in its directory: from where an earlier one left it, epoch by epoch, to its end."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dynhp_jax.common import processes
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.training.files import provenance, summary
from dynhp_jax.training.files.workdir import Workdir, seal
from dynhp_jax.training.run import agreement, checkpoint, loop, resume
from dynhp_jax.training.run.epoch_results import Record
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.writers.writer import Started, Writers


class Paused(Exception):
    """A run that was asked to stop, after its latest epoch was saved."""


class Pauses(Protocol):
    """Says whether a run is to stop early; `experiments.terminal.Interruptions` does by Ctrl-C.

    Attributes:
      wanted: whether the epoch at hand is to be the last one for now.
    """

    wanted: bool

    def saving(self) -> contextlib.AbstractContextManager:
        """Around what must not be stopped."""


class Never:
    """No pause."""

    wanted = False

    def saving(self) -> contextlib.AbstractContextManager:
        """Nothing to hold back."""
        return contextlib.nullcontext()


def start(
    trainer: Trainer,
    workdir: Workdir,
    begin: Callable[[Trainer], Run] = Trainer.start,
    tell: Callable[[str], None] | None = None,
) -> Run:
    """The run as its newest whole checkpoint has it, or at its very beginning.

    Args:
      trainer: the run's fixed part.
      workdir: claimed.
      begin: the run before its first epoch.
      tell: is told, in a line, after which epoch the run goes on.

    Raises:
      UserError: the checkpoint is of another model, data, loss or optimizer.
    """
    found = resume.newest(trainer, workdir.checkpoints, warn)
    trainer.announce(new=found is None)
    if found is None:
        return begin(trainer)
    trainer.check_criterion()
    run = resume.run_of(trainer, found)
    trainer.programs.compilations = found.host["compilations"]
    trainer.programs.seconds = found.host["compile_seconds"]
    trainer.programs.waited = found.host["compile_waited"]
    if tell is not None:
        epochs = trainer.config.epochs
        tell(f"going on after epoch {found.epoch} of {epochs} in {workdir.path}")
    return run


def train(
    trainer: Trainer,
    run: Run,
    workdir: Workdir,
    writers: Writers | None = None,
    pauses: Pauses | None = None,
    now: Mapping[str, Any] | None = None,
) -> tuple[Run, list[Record]]:
    """All epochs that are missing, each kept before the next one begins.

    Args:
      trainer: the run's fixed part.
      run: from `start`.
      workdir: claimed.
      writers: are called with the record of every epoch, once its line is on the disk and before
        it is in a checkpoint; closed by whoever made them.
      pauses: says when to stop early; None for never.
      now: of what commit, versions and machine the next epochs are, if not as they are found here.

    Returns:
      The run at its end, and the lines of metrics.jsonl.

    Raises:
      Paused: it was asked to stop, and its latest epoch is saved.
      Diverged: a loss is no longer a number.
      UserError: the directory was taken away.
    """
    pauses, config, writers = pauses or Never(), trainer.config, writers or Writers()
    agreement.check_start(run)
    with processes.together("the beginning"):
        records = workdir.begin(run.epoch)
        writers.begin(Started(records[:], config.epochs, trainer.whole.task))
        if run.epoch < config.epochs and processes.leads():
            provenance.keep(workdir, records, run.epoch, now or provenance.present())
    if not processes.leads():
        records = workdir.records()
    while run.epoch < config.epochs:
        with processes.together(f"epoch {run.epoch + 1}") as meeting:
            run, record = loop.advance(trainer, run)
            workdir.append(record)
            records.append(record)
            writers(record)
            decided = agreement.decided(trainer, run, record)
            meeting.said.update(decided=decided, pause=pauses.wanted)
        meeting.check_same("decided")
        pause = any(each["pause"] for each in meeting.heard)
        last = run.epoch == config.epochs or pause
        if last or run.epoch % config.checkpoint.every == 0:
            with pauses.saving():
                _save(trainer, run, workdir)
        if not processes.several():
            pause = pauses.wanted  # since the epoch was saved, too
        if pause and run.epoch < config.epochs:
            raise Paused(
                f"epoch {run.epoch} of {config.epochs} is saved in {workdir.path};"
                " the same command goes on from there"
            )
    return run, records


def finish(
    trainer: Trainer, run: Run, workdir: Workdir, records: list[Record]
) -> dict[str, Any] | None:
    """Draws the figures of a run that has ended, and writes and returns its summary.

    Of several processes all call this, and process 0 does it; the others return None.

    Raises:
      UserError: its directory is not as it was left.
    """
    from dynhp_jax.training.files import figures  # loads matplotlib

    with processes.together("the end"):
        if not processes.leads():
            return None
        check_saved(workdir, workdir.checkpoints, run.epoch)
        figures.draw(records, trainer, workdir.figures)
        came_from = provenance.entries(provenance.stretches_of(workdir, records))
        found = summary.summarise(trainer, run, records) | came_from
        write_json(workdir.summary_file, found)
        return found


def check_saved(workdir: Workdir, checkpoints: Path, epoch: int) -> None:
    """Raises UserError unless the run is still in its directory, with the end that was saved."""
    workdir.check_there()
    if checkpoint.epochs(checkpoints)[-1:] != [epoch]:
        raise UserError(
            f"the checkpoint of epoch {epoch} was removed from {checkpoints} while the run went on,"
            " so that it ends here; the same command goes on from what is left"
        )


def last_good(workdir: Workdir) -> str:
    """Which checkpoint there is, in words."""
    epochs = checkpoint.epochs(workdir.checkpoints)
    if not epochs:
        return "there is no checkpoint yet"
    return f"the checkpoint of epoch {epochs[-1]} is kept in {workdir.checkpoints}"


def _save(trainer: Trainer, run: Run, workdir: Workdir) -> None:
    if processes.several():
        processes.check_same(f"epoch {run.epoch}", {"arrays": agreement.digest(run.state)})
    resume.save(trainer, run, workdir.checkpoints, seal([workdir]), trainer.config.checkpoint.keep)
