"""How a run is interrupted by a person at a terminal."""

import contextlib
import signal
from pathlib import Path

from experiments import interrupting
from experiments.commandline import Interrupted, say


class Interruptions:
    """Lets the epoch at hand end after the first Ctrl-C; the second one stops at once.

    Args:
      unit: what ends: an epoch, or another stretch of a run.

    Attributes:
      wanted: whether there was a first one.
    """

    def __init__(self, unit: str = "epoch"):
        self.wanted, self._unit = False, unit
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
        say(f"interrupted: finishing this {self._unit}, to save it; once more stops at once")
