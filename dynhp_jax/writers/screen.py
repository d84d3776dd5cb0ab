"""A run as a person sees it: a progress bar on a terminal, now and then a line in a log file."""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from dynhp_jax.tasks.task import Task
from dynhp_jax.writers.writer import Compiling, Record, Started

LOG_SECONDS = 10.0  # between lines of a kind, where there is no terminal to draw on


class Screen:
    """Shows the epochs of a run, and the programs that are being compiled.

    A terminal (stderr) shows one line, which is written over; elsewhere lines go to stdout, at most
    one of epochs and one of programs in LOG_SECONDS.
    """

    def __init__(self):
        self._bar: tqdm | None = None
        self._line = _Line()
        self._next = dict.fromkeys(("epoch", "compiling"), 0.0)
        self._lock = threading.Lock()  # the thread that compiles ahead shows what it does, too

    def begin(self, started: Started) -> None:
        """The epochs that are there, and those to come."""
        self._line.clear()
        self._epochs, self._task = started.epochs, started.task
        self._bar = tqdm(
            total=started.epochs, initial=started.done, unit="epoch", disable=None,
            dynamic_ncols=True,
        )  # fmt: skip

    def __call__(self, record: Record) -> None:
        """One epoch more."""
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"{judged(record, self._task)}, units {_units(record)},"
                f" batch {record['batch_size']}, {record['memory_kib']:.0f} KiB",
                refresh=False,
            )
            self._bar.update()
        elif self._due("epoch") or record["epoch"] == self._epochs:
            print(line(record, self._epochs, self._task), flush=True)

    def compiling(self, program: Compiling | None) -> None:
        """A program more, or none any more."""
        with self._lock:
            if not sys.stderr.isatty():
                if program is not None and self._due("compiling"):
                    print(program, flush=True)
            elif self._bar is None:
                self._line.show("" if program is None else str(program))
            else:
                self._bar.set_description_str("" if program is None else str(program))

    def close(self) -> None:
        """Leaves the last line as it is."""
        self._line.clear()
        if self._bar is not None:
            self._bar.close()

    def _due(self, kind: str) -> bool:
        now = time.monotonic()
        if now < self._next[kind]:
            return False
        self._next[kind] = now + LOG_SECONDS
        return True


class _Line:
    """A line on a terminal that is written over, before there is a bar."""

    _shown = False

    def show(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        self._shown = bool(text)

    def clear(self) -> None:
        if self._shown:
            self.show("")


def judged(values: Mapping[str, Any], task: Task, prefix: str = "test_") -> str:
    """What says which epoch is best, in words: 'error 1.50 %'."""
    return f"{task.best.replace('_', ' ')} {value(values[f'{prefix}{task.best}'], task)}"


def value(found: float, task: Task) -> str:
    """A value of what says which epoch is best."""
    return f"{found:.2f} {task.unit}" if task.unit else f"{found:.4g}"


def line(record: Mapping[str, Any], epochs: int, task: Task) -> str:
    """An epoch for a log file."""
    return (
        f"epoch {record['epoch']}/{epochs}: test {judged(record, task)},"
        f" units {_units(record)},"
        f" batch {record['batch_size']}, model {record['model_kib']:.1f} KiB,"
        f" memory {record['memory_kib']:.1f} KiB, {record['seconds']:.2f} s"
        + (f" + compiling {record['compile_seconds']:.1f} s" if record["compile_seconds"] else "")
    )


def _units(record: Mapping[str, Any]) -> str:
    return "-".join(str(number) for number in record["units"].values()) or "all"
