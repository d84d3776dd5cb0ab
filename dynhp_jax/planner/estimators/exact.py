"""Losses that are known: a curve for each pair, and the jump of each change.

>>> from dynhp_jax.planner.tables import Pair
>>> large, small = Pair("L", "gold"), Pair("S", "bronze")
>>> known = Curves({large: (8, 5, 3, 2), small: (8, 6, 5, 4, 3)}, {(large, small): 1.0})
>>> known.after(large, small, 3.0, (), np.array([1])).expected.tolist()  # 3, then 4, then 3
[3.0]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.planner.estimators.estimator import Forecast, forbidden
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Pair


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """The loss of a pair follows its curve from wherever the loss stands on it.

    Attributes:
      curves: {pair: losses, falling, an epoch apart}; behind the last one the loss stays. Above the
        first one the decrement is that of the first epoch.
      jumps: {(source, target): by how much a change raises the loss}; what is not there is
        forbidden.
      error: what is added to the robust losses, for each epoch.
      bias: what is added to the expected and the robust decrement of an epoch, by pair.

    Raises:
      UserError: a curve that does not fall.
    """

    curves: Mapping[Pair, Sequence[float]]
    jumps: Mapping[tuple[Pair, Pair], float]
    error: float = 0.0
    bias: Mapping[Pair, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for pair, curve in self.curves.items():
            values = np.asarray(curve, np.float64)
            if values.ndim != 1 or len(values) < 2 or not (np.diff(values) < 0).all():
                raise UserError(f"the curve of {pair} does not fall; allowed: two losses or more")

    def begin(self, state: State) -> tuple:
        """Nothing to remember."""
        return ()

    def changed(self, source: Pair, target: Pair, loss: float, carry: Any) -> float:
        """The loss right after a change."""
        return loss + self.jumps[source, target]

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Any, epochs: np.ndarray
    ) -> Forecast:
        """As `Estimator.after`."""
        if target not in self.curves or (source != target and (source, target) not in self.jumps):
            return forbidden(epochs)
        curve = np.asarray(self.curves[target], np.float64)
        if source != target:
            loss = self.changed(source, target, loss, carry)
        at = np.arange(len(curve))
        if loss > curve[0]:
            place = (curve[0] - loss) / (curve[0] - curve[1])
        else:
            place = np.interp(-loss, -curve, at)
        there = place + epochs
        found = np.interp(there, at, curve)
        found = np.where(there < 0, curve[0] - there * (curve[0] - curve[1]), found)
        found = np.minimum(found, loss) + self.bias.get(target, 0.0) * epochs
        return Forecast(found, found + self.error * epochs, [()] * len(epochs))
