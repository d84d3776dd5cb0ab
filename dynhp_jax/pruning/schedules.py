"""When to prune how far: the limit of every epoch on the way to a target.

>>> [Cubic(start=1, end=4).limit(epoch, whole=1000, final=200) for epoch in range(6)]
[None, 1000, 437, 230, 200, None]
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Checked, number, whole


class Schedule(Protocol):
    """A frozen dataclass with the limits of all epochs."""

    def limit(self, epoch: int, whole: int, final: int) -> int | None:
        """What may remain after an epoch.

        Args:
          epoch: epochs that are over, from 0 (before training).
          whole: what the whole network measures, in the unit of the target.
          final: the target.

        Returns:
          The limit to prune to now; None where nothing is pruned.
        """
        ...


@dataclasses.dataclass(frozen=True)
class OneShot(Checked):
    """All at once.

    Attributes:
      at: after how many epochs.
    """

    prefix = "schedule."

    at: int = whole(0, 0, "after how many epochs")

    def limit(self, epoch: int, whole: int, final: int) -> int | None:
        """The target after epoch `at`."""
        return final if epoch == self.at else None


@dataclasses.dataclass(frozen=True)
class Cubic(Checked):
    """Much at first, less and less towards the end.

    Source: Zhu and Gupta 2018 (1710.01878), Eq. 1, with the share that is gone from 0 to s_f:
    s_t = s_f - s_f (1 - (t - start) / (end - start))^3.

    Attributes:
      start: the first epoch; nothing is gone after it yet.
      end: the epoch after which the target is met.
      every: epochs between two cuts.
    """

    prefix = "schedule."

    start: int = whole(0, 0, "the first epoch")
    end: int = whole(10, 1, "the epoch after which the target is met")
    every: int = whole(1, 1, "epochs between two cuts")

    def __post_init__(self):
        super().__post_init__()
        if self.end <= self.start:
            raise UserError(f"the schedule ends at {self.end}; allowed: after {self.start}")

    def limit(self, epoch: int, whole: int, final: int) -> int | None:
        """The value of the cubic; the target itself at the end."""
        if not self.start <= epoch <= self.end:
            return None
        if (epoch - self.start) % self.every and epoch != self.end:
            return None
        left = (self.end - epoch) / (self.end - self.start)
        return final + round((whole - final) * left**3)


@dataclasses.dataclass(frozen=True)
class EachEpoch(Checked):
    """The same share of what is left each time, until the target.

    Source: the rounds of Frankle and Carbin 2019 (1803.03635), section 2, one per epoch here;
    with `every` as long as a training, they are rounds of pruning and rewinding.

    Attributes:
      share: of what is left, how much goes each time.
      start: the epoch of the first cut.
      every: epochs between two cuts.
    """

    prefix = "schedule."

    share: float = number(0.2, 1e-6, 1 - 1e-6, "a number between 0 and 1", "what goes each time")
    start: int = whole(1, 0, "the epoch of the first cut")
    every: int = whole(1, 1, "epochs between two cuts")

    def limit(self, epoch: int, whole: int, final: int) -> int | None:
        """The next power of what is left; the target once it is met, None from then on."""
        times, rest = divmod(epoch - self.start, self.every)
        if times < 0 or rest or whole * (1 - self.share) ** times <= final:
            return None
        return max(final, round(whole * (1 - self.share) ** (times + 1)))
