"""The rounds of a decentralised run as a person sees them."""

import statistics
import time
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 10.0  # between lines, where there is no terminal to draw on


class Progress:
    """A bar on a terminal (stderr); elsewhere a line on stdout now and then, and at the end.

    Args:
      rounds: of the whole run.
      done: that an earlier process has done.
      shown: whether this process shows them: one of several does.
    """

    def __init__(self, rounds: int, done: int, shown: bool = True):
        self._rounds, self._due = rounds, 0.0
        self._bar = tqdm(
            total=rounds, initial=done, unit="round", disable=None if shown else True,
            dynamic_ncols=True,
        )  # fmt: skip

    def __call__(self, record: dict[str, Any]) -> None:
        """One round more."""
        said = line(record)
        if not self._bar.disable:
            if said:
                self._bar.set_postfix_str(said, refresh=False)
            self._bar.update()
        elif said and (time.monotonic() >= self._due or record["round"] == self._rounds):
            self._due = time.monotonic() + LOG_SECONDS
            print(f"round {record['round']}/{self._rounds}: {said}", flush=True)

    def close(self) -> None:
        """Leaves the last line as it is."""
        self._bar.close()


def line(record: dict[str, Any]) -> str:
    """A record in words; '' for a round that was not judged.

    >>> line({"round": 3, "alive": [1, 1, 0], "test_accuracy": [80.0, 90.0, 70.0]})
    'accuracy 80.00 % (70.00 to 90.00), 2 of 3 nodes alive'
    """
    if "test_accuracy" not in record:
        return ""
    found, alive = record["test_accuracy"], record["alive"]
    there = "" if all(alive) else f", {sum(alive)} of {len(alive)} nodes alive"
    mean = statistics.fmean(found)
    return f"accuracy {mean:.2f} % ({min(found):.2f} to {max(found):.2f}){there}"
