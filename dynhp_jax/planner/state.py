"""Where training stands, as planner and estimators see it: stages of losses that were observed."""

import dataclasses
from typing import NamedTuple

from dynhp_jax.planner.tables import Pair


class Stage(NamedTuple):
    """The epochs of one pair, from a change to the next.

    Attributes:
      pair: that trained.
      losses: right after the change (a forward pass), then after every epoch.
    """

    pair: Pair
    losses: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """Stages so far, and the time that they took.

    >>> state = State.beginning(Pair("L", "gold"), 2.3).after(Pair("L", "gold"), 1.1, 1.0)
    >>> state.loss, state.time, state.after(Pair("M", "silver"), 0.9, 0.8, changed=1.4).stages[-1]
    (1.1, 1.0, Stage(pair=Pair(model='M', nodes='silver'), losses=(1.4, 0.9)))

    Attributes:
      stages: in their order.
      time: seconds since the start of training.
    """

    stages: tuple[Stage, ...]
    time: float = 0.0

    @classmethod
    def beginning(cls, pair: Pair, loss: float) -> "State":
        """Before the first epoch."""
        return cls((Stage(pair, (float(loss),)),))

    @property
    def pair(self) -> Pair:
        """The present one."""
        return self.stages[-1].pair

    @property
    def loss(self) -> float:
        """The present one."""
        return self.stages[-1].losses[-1]

    @property
    def before_change(self) -> float | None:
        """The loss right before the last change; None before the first."""
        return self.stages[-2].losses[-1] if len(self.stages) > 1 else None

    def after(self, pair: Pair, loss: float, seconds: float, changed: float | None = None):
        """The state after one epoch more.

        Args:
          pair: that trained.
          loss: that was observed after it.
          seconds: that change and epoch took.
          changed: the loss right after the change, if the pair is another.
        """
        *earlier, last = self.stages
        if pair == last.pair:
            stages = (*earlier, Stage(pair, (*last.losses, float(loss))))
        else:
            first = self.loss if changed is None else changed
            stages = (*self.stages, Stage(pair, (float(first), float(loss))))
        return State(stages, self.time + seconds)


class Trace(NamedTuple):
    """A training that was recorded: its stages from the first epoch on.

    Attributes:
      seed: of the run; held-out errors are those on seeds that a fit has not seen.
      stages: in their order.
    """

    seed: int
    stages: tuple[Stage, ...]
