"""The directory of a run of several processes: process 0 holds and writes it, the others follow."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.config import Config
from dynhp_jax.training.files.records import Record
from dynhp_jax.training.files.run_directory import RunDirectory
from dynhp_jax.training.files.workdir import Workdir

PATIENCE_S = 60.0  # until a file that another machine has made is seen here


class FollowedWorkdir(RunDirectory):
    """A directory that process 0 holds; it has the methods of a `Workdir` that all processes call.

    Args:
      path: the directory, on a file system that all processes share.
    """

    def wait(self) -> None:
        """Until the directory is to be seen here.

        Raises:
          UserError: it is not.
        """
        wait_for(self.lock_file)

    def begin(self, epoch: int) -> list[Record]:
        """Nothing: process 0 begins, and has the records."""
        return []

    def append(self, record: Mapping[str, Any]) -> None:
        """Nothing: process 0 writes the same record."""

    def seal(self) -> dict[str, Any]:
        """Nothing: process 0 writes what a checkpoint has to hold of the files."""
        return {}

    def check_there(self) -> None:
        """Nothing: process 0 looks after it."""


def wait_for(lock: Path) -> None:
    """Until a file by which process 0 holds a directory is to be seen here.

    Raises:
      UserError: it is not.
    """
    until = time.monotonic() + PATIENCE_S
    while not lock.exists():
        if time.monotonic() > until:
            raise UserError(
                f"{lock.parent}, which process 0 holds, is not to be seen from here; give all"
                " processes a --workdir on a file system that they share"
            )
        time.sleep(0.05)


@contextlib.contextmanager
def claimed(path: str | os.PathLike, config: Config) -> Iterator[Workdir | FollowedWorkdir]:
    """The directory of a run, held for as long as the run goes on; see `Workdir.claim`."""
    with processes.noticing_losses(), contextlib.ExitStack() as held:
        workdir = Workdir(path) if processes.leads() else FollowedWorkdir(path)
        with processes.together("the directory of the run"):
            if processes.leads():
                held.enter_context(workdir.claim(config))
        with processes.together("the same directory"):
            if not processes.leads():
                workdir.wait()
        yield workdir
