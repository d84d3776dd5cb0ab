"""The interface of estimators: what a planner asks about losses to come."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Pair

Carry = Hashable


class Forecast(NamedTuple):
    """Losses after some numbers of epochs; infinite where the move is forbidden.

    Attributes:
      expected: f64[numbers].
      robust: f64[numbers], not below the true loss with high probability.
      carries: for each number, what the estimator remembers.
      low: f64[numbers], the other end of the interval; None where there is none.
    """

    expected: np.ndarray
    robust: np.ndarray
    carries: Sequence[Carry]
    low: np.ndarray | None = None


class Estimator(Protocol):
    """How losses go on. Pure: the same arguments give the same forecast.

    What a vertex of the graph has to remember beside pair and loss is the carry: nothing (`()`) for
    a Markov estimator, the loss before the last cut, or how many epochs each pair has trained.
    """

    def begin(self, state: State) -> Carry:
        """The carry of what was observed so far."""
        ...

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Carry, epochs: np.ndarray
    ) -> Forecast:
        """The losses after a change, if any, and so many epochs of the target.

        Args:
          source, target: the present pair, and the one that trains; equal ones for no change.
          loss: the present one.
          carry: of the present vertex.
          epochs: i64[numbers], rising, each 1 or more.
        """
        ...


class Exact(Estimator, Protocol):
    """An estimator that knows the true losses, which are its expected ones."""

    def changed(self, source: Pair, target: Pair, loss: float, carry: Carry) -> float:
        """The loss right after a change, before the first epoch of the target."""
        ...


class Jumping(Estimator, Protocol):
    """An estimator that also says what a change alone does to the loss."""

    def jump(self, state: State, target: Pair) -> np.ndarray:
        """[low, expected, robust] losses right after a change, less the present one."""
        ...


def forbidden(epochs: np.ndarray) -> Forecast:
    """The forecast of a move that cannot be."""
    never = np.full(len(epochs), np.inf)
    return Forecast(never, never, [()] * len(epochs), never)
