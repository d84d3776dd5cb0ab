"""The directory of a run: one config, one writer at a time, files that are whole or not there.

config.json       every field of the config
sweep.json        of a member of a sweep, and of the sweep's folder: the names of all members
metrics.jsonl     one line per epoch
summary.json      the end result; written when the last epoch is done
provenance.json   of which commit, versions and machine the epochs are; by experiments.provenance
tensorboard/      the same numbers as events
checkpoints/      by dynhp_jax.checkpoint; those of a sweep lie in its folder, for all members
figures/          PNG
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynhp_jax import config as configuration
from dynhp_jax import paths
from dynhp_jax.checkpoint import naming
from dynhp_jax.config import Config
from dynhp_jax.errors import UserError


class Workdir:
    """Paths and files of one run.

    Args:
      path: the directory; nothing is made before `claim`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = paths.given(path, "--workdir")
        self.config_file = self.path / "config.json"
        self.sweep_file = self.path / "sweep.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.provenance_file = self.path / "provenance.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"

    @contextlib.contextmanager
    def claim(self, config: Config | None, members: Sequence[str] = ()):
        """Holds the directory for a run, and keeps in it what the run is.

        A run that fails before its first epoch is done leaves nothing behind.

        Args:
          config: of the run; None for a sweep's folder, in which the members have theirs.
          members: of the sweep to which the directory belongs; () for a run of its own.

        Raises:
          UserError: another run holds it, or it holds a run of another config, or of other members.
          OSError: it cannot be made or written.
        """
        made = paths.make(self.path)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.path}; wait for it") from None
            self._compare(config, list(members))
            _keep(self.config_file, config and configuration.to_dict(config))
            _keep(self.sweep_file, members and {"members": list(members)})
            try:
                yield self
            except BaseException:
                self._leave()
                paths.remove_empty(made)
                raise

    def config(self) -> Config:
        """The config of the run that lies here.

        Raises:
          UserError: there is none, or it cannot be read.
        """
        try:
            values = json.loads(self.config_file.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.path} holds no run (no config.json)") from None
        except ValueError:
            raise UserError(f"{self.config_file} is not whole; take another --workdir") from None
        return configuration.from_dict(values)

    @property
    def members(self) -> list[str]:
        """Names of all members of the sweep to which the directory belongs; [] if to none.

        Raises:
          UserError: the file that says so cannot be read.
        """
        try:
            return json.loads(self.sweep_file.read_text())["members"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.sweep_file} is not whole; take another --workdir") from None

    @property
    def begun(self) -> bool:
        """Whether an epoch was finished here; of a member, its sweep's checkpoints know it."""
        folder = Workdir(self.path.parent)
        member = bool(self.members) and folder.members == self.members
        there = [self, folder] if member else [self]
        return any(each.checkpoints.exists() for each in there) or bool(self.records())

    def _leave(self) -> None:
        """Takes away what `claim` wrote, if no epoch was finished."""
        if self.begun:
            return
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        for file in (self.config_file, self.sweep_file, self.metrics_file, self.provenance_file,
                     self.path / ".lock"):  # fmt: skip
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies in it
            self.path.rmdir()

    def _compare(self, config: Config | None, members: list[str]) -> None:
        if not self.begun:
            return  # killed in its first epoch: there is nothing to go on from
        found = self.members
        if found != members:
            held = "holds a single run; take another --workdir, or go on with experiments.train"
            if not self.config_file.exists():
                held = "holds a sweep of an earlier version of dynhp_jax; take another --workdir"
            if found:
                held = (
                    f"belongs to a sweep over {', '.join(found)}; take another --workdir, or go on"
                    " with experiments.sweep over these"
                )
            raise UserError(f"{self.path} {held}")
        if config is None:
            return
        if not self.config_file.exists():
            raise UserError(
                f"{self.path} holds a run without its config.json; take another --workdir"
            )
        differing = configuration.differences(self.config(), config)
        if differing:
            raise UserError(
                f"{self.path} holds a run of another config; what differs:"
                f" {', '.join(differing)}; take another --workdir, or remove this one"
            )

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a killed run did not finish is left out."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def rewind(self, epoch: int) -> list[dict[str, Any]]:
        """Drops the lines of later epochs, which are going to be run again; returns the rest."""
        records = [record for record in self.records() if record["epoch"] <= epoch]
        if self.metrics_file.exists():
            write_text(self.metrics_file, "".join(json.dumps(each) + "\n" for each in records))
        self.summary_file.unlink(missing_ok=True)
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl; it is on the disk when this returns."""
        with naming(self.metrics_file), open(self.metrics_file, "ab", buffering=0) as file:
            whole = file.tell()
            try:
                rest = json.dumps(record).encode() + b"\n"
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)  # a part of a line is none
                raise


def _keep(path: Path, values: Any) -> None:
    """Writes a file; without values what an earlier run may have left there goes."""
    if values:
        write_json(path, values)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes all of a file or nothing."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes all of a file or nothing."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        with naming(path), open(unfinished, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
