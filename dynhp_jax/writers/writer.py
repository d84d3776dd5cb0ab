"""What a writer is: something that is called with the record of every epoch.

A function is one. An object may have some of three methods beside `__call__`: `begin`, when the run
starts or goes on, `compiling`, while programs are compiled, and `close`, when the run ends, however
it ends.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks.task import Task

Record = Mapping[str, Any]  # of an epoch, as a line of metrics.jsonl has it


@dataclasses.dataclass(frozen=True)
class Started:
    """A run before its next epoch.

    Attributes:
      records: of the epochs that an earlier process has done and saved, [] for a new run. What a
        writer holds of later epochs is of no run any more: these epochs are trained again.
      epochs: of the whole run.
      task: by what the run is trained and judged.
    """

    records: Sequence[Record]
    epochs: int
    task: Task

    @property
    def done(self) -> int:
        """The last epoch that is done; 0 for a new run."""
        return self.records[-1]["epoch"] if self.records else 0


@dataclasses.dataclass(frozen=True)
class Compiling:
    """A program that is being compiled.

    Attributes:
      name: what it is for.
      number: its place among those that are compiled for the same purpose, from 1.
      of: how many these are, as far as is known: a search for what fits a budget may need more.
      ahead: whether training goes on meanwhile.
    """

    name: str
    number: int
    of: int
    ahead: bool

    def __str__(self) -> str:
        return f"compiling {self.number} of {self.of}: {self.name}"


class Writer(Protocol):
    """An object that takes the records of a run; only `__call__` has to be there."""

    def begin(self, started: Started) -> None:
        """The run starts, or goes on after what an earlier process did."""

    def __call__(self, record: Record) -> None:
        """One epoch more."""

    def compiling(self, program: Compiling | None) -> None:
        """A program is being compiled; None: none any more. Any thread may call this."""

    def close(self) -> None:
        """No epoch comes any more."""


class Writers:
    """Several writers as one; a context, at whose end all of them are closed.

    The first that raises ends the run: its epoch is kept as all before it, so the same command goes
    on from the newest checkpoint.

    Args:
      several: functions of a record, or objects as `Writer` says.

    Raises:
      UserError: one cannot be called.
    """

    def __init__(self, several: Iterable[Callable[[Record], Any]] = ()):
        self._several = tuple(several)
        for each in self._several:
            if not callable(each):
                raise UserError(
                    f"a writer is a {type(each).__name__}, which cannot be called; allowed: a"
                    " function of the record of an epoch, or an object with __call__"
                )

    def begin(self, started: Started) -> None:
        """The run starts, or goes on."""
        for begin in self._having("begin"):
            begin(started)

    def __call__(self, record: Record) -> None:
        """One epoch more."""
        for write in self._several:
            write(record)

    def compiling(self, program: Compiling | None) -> None:
        """A program is being compiled, or none any more."""
        for show in self._having("compiling"):
            show(program)

    def close(self) -> None:
        """Closes all, also where one of them fails to."""
        with contextlib.ExitStack() as closing:
            for close in self._having("close"):
                closing.callback(close)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def _having(self, method: str) -> list[Callable]:
        return [getattr(each, method) for each in self._several if hasattr(each, method)]
