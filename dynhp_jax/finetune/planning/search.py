"""The best step inside a budget, found with few compilations.

Of every setting all depths and all numbers of rows are candidates. Which of them may be the best is
asked of the estimate, and that one is compiled; what it takes corrects the estimate, and so on,
until nothing that is expected to fit would train noticeably more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from dynhp_jax.finetune.planning.bench import Bench, Made
from dynhp_jax.finetune.planning.estimate import Candidate, Corrected, Estimate
from dynhp_jax.finetune.planning.setting import Setting

LOOKS = 5  # at one setting
MARGIN = 0.01  # of the budget, that is left for each time when too much was taken
TOO_MUCH = 1.2  # times the budget: estimates above it are believed, where another setting is left


@dataclasses.dataclass(frozen=True)
class Look:
    """A candidate that was compiled, and what was made of it."""

    candidate: Candidate
    made: Made

    @property
    def bytes(self) -> int:
        """That its executable takes."""
        return self.made.bytes


class Search:
    """The search.

    Args:
      estimate: of the network.
      bench: where candidates are compiled.
      budget: bytes.
      worth: by how much more of the gradient's norm has to be trained, as a share, for another
        compilation or another saving to be worth it.

    Attributes:
      looks: what was compiled, in order.
    """

    def __init__(
        self,
        estimate: Estimate,
        bench: Bench,
        budget: int,
        worth: float,
    ):
        self.estimate, self.bench, self.budget = estimate, bench, budget
        self._more = (1 + worth) ** 2  # of a squared norm
        self.looks: list[Look] = []

    def best(self, settings: Iterable[Setting]) -> Look | None:
        """The best that fits; None if nothing does."""
        best: Look | None = None
        settings = list(settings)
        for setting in settings:
            if best is not None and best.candidate.gain * self._more >= self.estimate.whole:
                break
            found = self._of(setting, last=setting is settings[-1])
            if found is None:
                continue
            if best is None or self._better(found.candidate, best):
                best = found
        return best

    def least(self, setting: Setting) -> Look:
        """The step that takes the fewest bytes in a setting."""
        candidate = self.estimate.least(setting)
        known = (look for look in self.looks if look.candidate == candidate)
        return next(known, None) or self._look(candidate)

    def tried(self) -> Iterator[tuple[str, int]]:
        """(what was compiled, its bytes), in order."""
        for look in self.looks:
            yield self.estimate.said(look.candidate), look.bytes

    def _look(self, candidate: Candidate) -> Look:
        self.looks.append(Look(candidate, self.bench.made(candidate)))
        return self.looks[-1]

    def _of(self, setting: Setting, last: bool) -> Look | None:
        least = self.estimate.least(setting)
        if self.bench.known(least) > self.budget:
            return None
        if not last and least.bytes > TOO_MUCH * self.budget:
            return None
        corrected, found, aim = Corrected(), None, float(self.budget)
        seen: list[Candidate] = []
        for _ in range(LOOKS):
            candidate = self._proposed(setting, corrected, aim)
            if candidate is None or _among(candidate, seen):
                candidate = least
            if _among(candidate, seen) or (
                found is not None and not self._better(candidate, found)
            ):
                break
            look = self._look(candidate)
            seen.append(candidate)
            corrected.learn(candidate, look.bytes)
            if look.bytes > self.budget:
                aim -= MARGIN * self.budget
            elif found is None or self._better(candidate, found):
                found = look
        if found is None and not _among(least, seen):
            look = self._look(least)
            found = look if look.bytes <= self.budget else None
        return found

    def _better(self, candidate: Candidate, than: Look) -> bool:
        return candidate.gain > than.candidate.gain * self._more

    def _proposed(self, setting: Setting, corrected: Corrected, aim: float) -> Candidate | None:
        """The one that trains most of those that are expected to fit; of equal ones the highest."""
        best: Candidate | None = None
        for depth in reversed(range(len(self.estimate.layers))):
            found = self._largest(setting, depth, corrected, aim)
            if found is not None and (best is None or found.gain > best.gain):
                best = found
        return best

    def _largest(
        self, setting: Setting, depth: int, corrected: Corrected, aim: float
    ) -> Candidate | None:
        """With the most rows from a depth on that are expected to fit."""
        make, layers = self.estimate.candidate, self.estimate.layers[depth:]
        low = min(self.estimate.costs[path].row for path in layers)
        high = self.estimate.most(depth)

        def fits(candidate: Candidate) -> bool:
            return corrected.bytes(candidate) <= aim

        found = make(setting, depth, low)
        if not fits(found):
            return None
        whole = make(setting, depth, high)
        if fits(whole):
            return whole
        while high - low > max(1, low // 100):
            middle = (low + high) // 2
            candidate = make(setting, depth, middle)
            if fits(candidate):
                low, found = middle, candidate
            else:
                high = middle
        return found


def _among(candidate: Candidate, seen: Iterable[Candidate]) -> bool:
    return any(candidate.quotas == each.quotas for each in seen)
