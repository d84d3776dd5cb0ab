"""How good an estimator is, by the paper's Table I: mean absolute error, interval, coverage."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dynhp_jax.planner.estimators.estimator import Estimator, Jumping
from dynhp_jax.planner.state import Stage, State, Trace

AHEAD = 5  # epochs, as in the paper


class Errors(NamedTuple):
    """Of 90 % intervals.

    Attributes:
      mean: of the absolute errors.
      width: of the intervals, on average.
      coverage: share of the true values within them.
      count: of forecasts.
    """

    mean: float
    width: float
    coverage: float
    count: int


def of_runs(estimator: Estimator, traces: Sequence[Trace]) -> Errors:
    """Of the losses of the next five epochs, from every epoch of every stage."""
    found = []
    for state, later in _epochs(traces):
        ahead = np.arange(1, len(later) + 1)
        seen = estimator.after(state.pair, state.pair, state.loss, estimator.begin(state), ahead)
        found.append(np.stack([seen.low, seen.expected, seen.robust, later]))
    return _errors(np.concatenate(found, 1))


def of_changes(estimator: Jumping, traces: Sequence[Trace]) -> Errors:
    """Of the loss right after every change, which is counted once."""
    found = {}
    for trace in traces:
        for number in range(1, len(trace.stages)):
            state, after = State(trace.stages[:number]), trace.stages[number]
            if (state, after.pair) not in found:
                jump = estimator.jump(state, after.pair)
                found[state, after.pair] = [*jump, after.losses[0] - state.loss]
    return _errors(np.array(list(found.values())).T)


def of_repeating(traces: Sequence[Trace]) -> float:
    """The mean absolute error of the forecast that the last decrement is repeated."""
    found = []
    for state, later in _epochs(traces):
        losses = state.stages[-1].losses
        if len(losses) > 1:
            step = losses[-1] - losses[-2]
            found.append(np.abs(losses[-1] + step * np.arange(1, len(later) + 1) - later))
    return float(np.concatenate(found).mean())


def _epochs(traces: Sequence[Trace]) -> Iterator[tuple[State, np.ndarray]]:
    """Every state with epochs of the same stage behind it, and their losses; each once."""
    seen = set()
    for trace in traces:
        for number, stage in enumerate(trace.stages):
            for place in range(1, len(stage.losses)):
                here = Stage(stage.pair, stage.losses[:place])
                state = State((*trace.stages[:number], here))
                later = stage.losses[place : place + AHEAD]
                if (state, later) not in seen:
                    seen.add((state, later))
                    yield state, np.array(later)


def _errors(values: np.ndarray) -> Errors:
    low, expected, high, true = values
    inside = (low <= true) & (true <= high)
    return Errors(
        float(np.abs(expected - true).mean()), float((high - low).mean()), float(inside.mean()),
        true.size,
    )  # fmt: skip
