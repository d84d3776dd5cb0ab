"""The directory of a run: one config, one writer at a time, files that are whole or not there.

config.json       every field of the config
metrics.jsonl     one line per epoch
summary.json      the end result; written when the last epoch is done
tensorboard/      the same numbers as events
checkpoints/      by dynhp_jax.checkpoint
figures/          PNG
"""

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from dynhp_jax import config as configuration
from dynhp_jax.checkpoint import naming
from dynhp_jax.config import Config
from dynhp_jax.errors import UserError


class Workdir:
    """Paths and files of one run.

    Args:
      path: the directory; nothing is made before `claim`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser().absolute()
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.tensorboard = self.path / "tensorboard"

    @contextlib.contextmanager
    def claim(self, config: Config):
        """Holds the directory for a run of `config`, and keeps the config in it.

        A run that fails before its first epoch is done leaves nothing behind.

        Raises:
          UserError: another run holds it, or it holds a run of another config.
          OSError: it cannot be made or written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.path}; wait for it") from None
            self._compare(config)
            write_json(self.config_file, configuration.to_dict(config))
            try:
                yield self
            except BaseException:
                self._leave()
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
    def _begun(self) -> bool:
        """Whether an epoch was finished here."""
        return self.checkpoints.exists() or bool(self.records())

    def _leave(self) -> None:
        """Takes away what `claim` wrote, if no epoch was finished."""
        if self._begun:
            return
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        for file in (self.config_file, self.metrics_file, self.path / ".lock"):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies in it
            self.path.rmdir()

    def _compare(self, config: Config) -> None:
        if not self._begun:
            return  # killed in its first epoch: there is nothing to go on from
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
