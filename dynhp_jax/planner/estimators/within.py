"""An estimator that says nothing of changes earlier or later than those that were measured."""

import dataclasses
from typing import Any

import numpy as np

from dynhp_jax.planner.estimators.estimator import Forecast, Jumping, forbidden
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Pair


@dataclasses.dataclass(frozen=True, eq=False)
class Within:
    """Changes are allowed after `first` to `last` epochs of a pair; all else is forbidden.

    The carry has the epochs of the present pair beside that of the other estimator, so the graph
    grows; of the pairs in `final`, from which nothing leads on, they are not counted.

    Attributes:
      estimator: of the losses.
      first, last: epochs.
      final: pairs that are never left.
    """

    estimator: Jumping
    first: int
    last: int
    final: frozenset[Pair] = frozenset()

    def begin(self, state: State) -> tuple:
        """(epochs of the present pair, the other estimator's carry)."""
        return self._count(state.pair, len(state.stages[-1].losses) - 1), self.estimator.begin(
            state
        )

    def _count(self, pair: Pair, epochs: int) -> int:
        return 0 if pair in self.final else min(epochs, self.last + 1)

    def jump(self, state: State, target: Pair) -> np.ndarray:
        """As `Jumping.jump`."""
        return self.estimator.jump(state, target)

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Any, epochs: np.ndarray
    ) -> Forecast:
        """As `Estimator.after`."""
        done, inner = carry
        if source != target:
            if not self.first <= done <= self.last:
                return forbidden(epochs)
            done = 0
        seen = self.estimator.after(source, target, loss, inner, epochs)
        counts = (self._count(target, done + int(ahead)) for ahead in epochs)
        return seen._replace(carries=list(zip(counts, seen.carries, strict=True)))
