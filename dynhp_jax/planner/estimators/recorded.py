"""Recorded trainings as a world: exact losses, interpolated between the epochs of recorded changes.

A training is known by its history: how many epochs each pair has trained, in order. Trainings that
changed at some epochs were recorded; losses of those that changed in between are interpolated
linearly. Before the first and behind the last recorded change, and behind the end of a record,
nothing is known, and nothing is allowed.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.planner.estimators.estimator import Forecast, forbidden
from dynhp_jax.planner.state import State, Trace
from dynhp_jax.planner.tables import Pair

History = tuple[tuple[Pair, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """See `recorded`.

    Attributes:
      curves: {pairs in order: {epochs of the earlier ones: losses of the last one}}.
    """

    curves: Mapping[tuple[Pair, ...], Mapping[tuple[int, ...], np.ndarray]]

    def begin(self, state: State) -> History:
        """How many epochs each pair has trained."""
        return tuple((stage.pair, len(stage.losses) - 1) for stage in state.stages)

    def changed(self, source: Pair, target: Pair, loss: float, carry: History) -> float:
        """The loss right after a change."""
        return float(self._losses((*carry, (target, 0)), np.array([0]))[0])

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Any, epochs: np.ndarray
    ) -> Forecast:
        """As `Estimator.after`."""
        history = carry if source == target else (*carry, (target, 0))
        *earlier, (_, done) = history
        numbers = done + np.asarray(epochs)
        losses = self._losses(history, numbers)
        if np.isinf(losses).all():
            return forbidden(epochs)
        carries = [(*earlier, (target, int(number))) for number in numbers]
        return Forecast(losses, losses, carries)

    def _losses(self, history: History, numbers: np.ndarray) -> np.ndarray:
        pairs = tuple(pair for pair, _ in history)
        known = self.curves.get(pairs)
        if known is None:
            return np.full(len(numbers), np.inf)
        total = np.zeros(len(numbers))
        corners = [
            _around(sorted({each[place] for each in known}), epochs)
            for place, (_, epochs) in enumerate(history[:-1])
        ]
        for corner in itertools.product(*corners):
            weight = float(np.prod([share for _, share in corner]))
            curve = known.get(tuple(at for at, _ in corner), np.zeros(0))
            inside = numbers < len(curve)
            found = curve[np.where(inside, numbers, 0)] if len(curve) else 0.0
            total += weight * np.where(inside, found, np.inf)
        return total if all(corners) else np.full(len(numbers), np.inf)


def recorded(traces: Sequence[Trace], seed: int) -> Recorded:
    """The world of one seed's trainings.

    Raises:
      UserError: there is none of that seed.
    """
    curves: dict[tuple[Pair, ...], dict[tuple[int, ...], np.ndarray]] = {}
    for trace in traces:
        if trace.seed != seed:
            continue
        for number, stage in enumerate(trace.stages, 1):
            earlier = trace.stages[: number - 1]
            pairs = (*(each.pair for each in earlier), stage.pair)
            at = tuple(len(each.losses) - 1 for each in earlier)
            held = curves.setdefault(pairs, {})
            if len(stage.losses) > len(held.get(at, ())):
                held[at] = np.array(stage.losses, np.float64)
    if not curves:
        seeds = sorted({trace.seed for trace in traces})
        raise UserError(f"no training of seed {seed} was recorded; allowed: {seeds}")
    return Recorded(curves)


def _around(places: Sequence[int], at: int) -> list[tuple[int, float]]:
    """The neighbours of a place and their shares; none outside."""
    if at in places:
        return [(at, 1.0)]
    below = [each for each in places if each < at]
    above = [each for each in places if each > at]
    if not below or not above:
        return []
    low, high = below[-1], above[0]
    share = (at - low) / (high - low)
    return [(low, 1 - share), (high, share)]
