"""What a person at a terminal sees of a run, and how one is interrupted."""

import contextlib
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynhp_jax.tasks.task import Task
from experiments import interrupting, reports
from experiments.commandline import Interrupted, say

LOG_SECONDS = 10.0  # between lines where there is no terminal to draw a progress bar on


class Interruptions:
    """Lets the epoch at hand end after the first Ctrl-C; the second one stops at once.

    Attributes:
      wanted: whether there was a first one.
    """

    def __init__(self):
        self.wanted = False
        self._saving = False

    def __enter__(self):
        interrupting.check()
        self._before = {kind: signal.signal(kind, self._note)
                        for kind in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
        return self

    def __exit__(self, *details):
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def after_the_last(self, place: Path) -> None:
        """Raises Interrupted if Ctrl-C came in the last epoch: what is next must not begin."""
        if self.wanted:
            raise Interrupted(f"that was the last epoch; the whole run is in {place}")

    @contextlib.contextmanager
    def saving(self):
        """Within it no Ctrl-C stops anything: what is being written would be lost, and is short."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _note(self, number, frame):
        if self.wanted and self._saving:
            say("interrupted: being saved, a moment")
            return
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        say("interrupted: finishing this epoch, to save it; once more stops at once")


class Screen:
    """A progress bar on a terminal, now and then a line elsewhere."""

    def __init__(self, done: int, epochs: int, task: Task):
        self._epochs, self._task = epochs, task
        self._bar = tqdm(total=epochs, initial=done, unit="epoch", disable=None, dynamic_ncols=True)
        self._next = 0.0

    def show(self, record: Mapping[str, Any]) -> None:
        """One epoch more, as metrics.jsonl has it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"{reports.judged(record, self._task)},"
                f" units {'-'.join(str(n) for n in record['units'].values()) or 'all'},"
                f" batch {record['batch_size']}, {record['memory_kib']:.0f} KiB",
                refresh=False,
            )
            self._bar.update()
        elif time.monotonic() >= self._next or record["epoch"] == self._epochs:
            print(reports.line(record, self._epochs, self._task), flush=True)
            self._next = time.monotonic() + LOG_SECONDS

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
