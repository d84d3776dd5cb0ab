"""The directory of a run: one config, one writer at a time, files that are whole or not there.

config.json       every field of the config
sweep.json        of a member of a sweep, and of the sweep's folder: the names of all members
metrics.jsonl     one line per epoch; by `records`
summary.json      the end result; written when the last epoch is done
provenance.json   of which commit, versions and machine the epochs are; by `provenance`
tensorboard/      the same numbers as events
checkpoints/      by `run.checkpoint`; a sweep's lie in its folder, for all members
figures/          PNG

It is read by `run_directory`, which says what is refused and what is written again.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from dynhp_jax.training.files.records import Record
from dynhp_jax.training.files.run_directory import RUNS, RunDirectory
from dynhp_jax.training.run import checkpoint


class Workdir(RunDirectory):
    """A directory that a run holds and writes to.

    Args:
      path: the directory; nothing is made before `claim`, and but for a lock before `begin`.
    """

    _lock = None
    _stretches = None  # of the provenance, once it is read for the checkpoints

    @property
    def of_sweep(self) -> bool:
        """Whether this is a member's directory: of a run that holds it, by what that says."""
        if self._lock is not None:
            return self._config is not None and bool(self._members)
        return super().of_sweep

    @contextlib.contextmanager
    def claim(self, config: Config | None, members: Sequence[str] = ()):
        """Holds the directory for a run, after a look at everything in it; nothing is changed.

        A run that fails before its first epoch is done leaves nothing behind.

        Args:
          config: of the run; None for a sweep's folder, in which the members have theirs.
          members: of the sweep to which the directory belongs; () for a run of its own.

        Raises:
          UserError: another run holds it, it holds a run of another config, or of other members, a
            file in it is damaged, or it was taken away while the run went on.
          OSError: it cannot be made or written.
        """
        self.check_places()
        made = paths.make(self.path)
        self._first, self._written = not self.lock_file.exists(), False
        with open(self.lock_file, "a") as self._lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.path}; wait for it") from None
            self._config, self._members = config, list(members)
            try:
                self._check()
                yield self
                self.check_there()
            except BaseException as error:
                if self.there:
                    self._leave()
                    paths.remove_empty(made)
                elif isinstance(error, Exception):
                    self.check_there()
                raise
            finally:
                self._lock = None

    def begin(self, epoch: int) -> list[Record]:
        """Keeps here what the run is, once it is known to go on after this epoch.

        What was written of later epochs goes: they are trained again.

        Returns:
          The records of the epochs so far; [] of a sweep's folder: its members have theirs.
        """
        self.check_there()
        self._written, self._stretches = True, None
        stretches = self.stretches() if self._config else []
        for file in (self.config_file, self.provenance_file):
            if stretches and not file.exists():
                warn(f"{file} was lost; it is written again, from the checkpoint")
        _keep(self.provenance_file, stretches)
        _keep(self.config_file, self._config and configuration.to_dict(self._config))
        _keep(self.sweep_file, self._members and {"members": self._members})
        checkpoint.sweep(self.checkpoints, after=epoch)
        if self._config is None:
            return []
        self._open = self.open_records()
        self.summary_file.unlink(missing_ok=True)
        return self._open.begin(epoch)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl; it is on the disk when this returns."""
        self.check_there()
        self._open.append(record)

    def seal(self) -> dict[str, Any]:
        """What a checkpoint has to hold of the run's files; see the function of this name."""
        self.check_there()
        self._stretches = self._stretches or self.stretches()
        known = {
            "config": configuration.to_dict(self._config),
            "provenance": self._stretches,
            "records": self._open.seal(),
        }
        return {self.name: known}

    @property
    def there(self) -> bool:
        """Whether the directory is still the one that was claimed."""
        try:
            return os.path.samestat(os.stat(self.lock_file), os.fstat(self._lock.fileno()))
        except OSError:
            return False

    def check_there(self) -> None:
        """Raises UserError if the directory is no more the one that was claimed."""
        if not self.there:
            raise UserError(
                f"{self.path} was removed, renamed or replaced while the run went on, so that it"
                " ends here; put it back, and the same command goes on from the newest checkpoint"
            )

    def _check(self) -> None:
        """Raises UserError unless the run that was claimed can go on from what is here."""
        if not self.begun:  # killed in its first epoch: there is nothing to go on from
            if os.path.lexists(self.config_file):
                self.config()  # that of another program must not be written over
            return
        self._check_members()
        if self._config is None:
            return
        if not os.path.lexists(self.config_file) and not self.known():
            raise UserError(
                f"{self.path} holds a run without its config.json; take another --workdir"
            )
        there = self.config()
        differing = configuration.differences(there, self._config)
        if differing:
            raise UserError(
                f"{self.path} holds a run of another config; what differs:"
                f" {', '.join(differing)}; take another --workdir, or remove this one"
            )
        self.stretches()
        self._check_checkpoints(len(self.records()), there.checkpoint.every)

    def _check_members(self) -> None:
        """Raises UserError where other runs, or another one, have been here."""
        members = self.members
        if members == self._members:
            return
        if not members and self.of_sweep and self.known():
            return  # its directory was lost; the sweep, which is this one, knows all of it
        held = "holds a single run; take another --workdir, or go on with experiments.train"
        if not os.path.lexists(self.config_file):
            held = "holds a sweep of an earlier version of dynhp_jax; take another --workdir"
        if members:
            held = (
                f"belongs to a sweep over {', '.join(members)}; take another --workdir, or go"
                " on with experiments.sweep over these"
            )
        raise UserError(f"{self.path} {held}")

    def _check_checkpoints(self, epochs: int, every: int) -> None:
        """Raises UserError if there have been checkpoints of these epochs, and none is left."""
        if epochs > every and not checkpoint.epochs(self.all_checkpoints):
            raise UserError(
                f"{self.metrics_file} has {epochs} epochs, and {self.all_checkpoints} has no"
                " checkpoint, as if they were lost; put them back, or remove metrics.jsonl to begin"
                " again with epoch 1"
            )

    def _leave(self) -> None:
        """Takes away what the run wrote, if no epoch was finished."""
        if self.begun or not (self._first or self._written):
            return
        if self._written:
            shutil.rmtree(self.tensorboard, ignore_errors=True)
            for file in (self.config_file, self.sweep_file, self.metrics_file,
                         self.provenance_file):  # fmt: skip
                file.unlink(missing_ok=True)
        self.lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies in it
            self.path.rmdir()


def seal(workdirs: Iterable[Workdir]) -> dict[str, Any]:
    """What a checkpoint has to hold, beside a run's state, of the files of its run or runs."""
    return {RUNS: {name: known for each in workdirs for name, known in each.seal().items()}}


def _keep(path: Path, values: Any) -> None:
    """Writes a file; without values what an earlier run may have left there goes."""
    if values:
        write_json(path, values)
    else:
        path.unlink(missing_ok=True)
