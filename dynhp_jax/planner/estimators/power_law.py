"""A power law of each pair's losses, as a map of the present loss: the default estimator.

From l(t) = f + (u + c t)^-p follows l(t + j) = f + ((l(t) - f)^(-1/p) + j c)^-p, in which no epoch
number is left: the estimator is Markov. Where it pays, f and log c depend linearly on the loss
right before the last change, which is then the carry: networks that were cut later end better.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from dynhp_jax.common.errors import UserError
from dynhp_jax.planner.estimators.estimator import Forecast, forbidden
from dynhp_jax.planner.graph import EPOCHS
from dynhp_jax.planner.state import State, Trace
from dynhp_jax.planner.tables import Pair

QUANTILES = (0.05, 0.95)
_CELLS = 16  # of the loss before the last change
_WORTH = 0.9  # the carry is kept where it lowers the held-out residual to this share
_LOW, _HIGH = (-20.0, math.log(0.1)), (10.0, math.log(8.0))  # of log c and log p
_LEAST = 1e-9


class Law(NamedTuple):
    """f = f0 + f1 b, log c = c0 + c1 b, with b the loss before the last change; and log p."""

    f0: float
    c0: float
    log_p: float
    f1: float = 0.0
    c1: float = 0.0

    def after(self, loss: Any, epochs: Any, before: Any) -> np.ndarray:
        """The losses after so many epochs; those below f stay. Arguments broadcast."""
        loss, power = np.asarray(loss, np.float64), math.exp(self.log_p)
        floor = np.maximum(self.f0 + self.f1 * np.asarray(before), 0.0)
        pace = np.exp(np.clip(self.c0 + self.c1 * np.asarray(before), -30, 30))
        above = np.maximum(loss - floor, _LEAST)
        found = floor + (above ** (-1 / power) + epochs * pace) ** -power
        return np.where(loss > floor + _LEAST, found, loss)


class Jump(NamedTuple):
    """What a change adds to the loss: a + b loss, and the quantiles of its held-out residuals."""

    a: float
    b: float
    low: float = 0.0
    high: float = 0.0

    def of(self, loss: float) -> np.ndarray:
        """[low, expected, robust] jumps."""
        return self.a + self.b * loss + np.array([self.low, 0.0, self.high])


class _Points(NamedTuple):
    """Losses of a pair, and those some epochs later."""

    loss: np.ndarray
    epochs: np.ndarray
    before: np.ndarray
    later: np.ndarray

    def residuals(self, law: Law) -> np.ndarray:
        """log(later / forecast)."""
        return np.log(self.later) - np.log(law.after(self.loss, self.epochs, self.before))


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLaw:
    """Laws of pairs and jumps of changes, with quantiles of their residuals; see `fit`.

    Attributes:
      laws: by pair.
      jumps: by (source, target); what is not there is forbidden.
      quantiles: by pair, f64[numbers of epochs, 2]: of log(loss / forecast).
      cells: borders between the carry's cells; None without a carry.
    """

    laws: Mapping[Pair, Law]
    jumps: Mapping[tuple[Pair, Pair], Jump]
    quantiles: Mapping[Pair, np.ndarray]
    cells: tuple[float, float] | None = None

    def begin(self, state: State) -> Any:
        """The loss before the last change, on its grid; 0 before the first."""
        return self._carry(state.before_change)

    def _carry(self, before: float | None) -> Any:
        if self.cells is None:
            return ()
        if before is None:
            return 0.0
        low, high = self.cells
        width = max(high - low, _LEAST) / _CELLS
        cell = min(_CELLS - 1, max(0, math.floor((before - low) / width)))
        return low + (cell + 0.5) * width

    def jump(self, state: State, target: Pair) -> np.ndarray:
        """[low, expected, robust] losses right after a change, less the present one."""
        return self.jumps[state.pair, target].of(state.loss)

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Any, epochs: np.ndarray
    ) -> Forecast:
        """As `Estimator.after`."""
        if target not in self.laws or (source != target and (source, target) not in self.jumps):
            return forbidden(epochs)
        start = np.full(3, loss)
        if source != target:
            start = np.maximum(loss + self.jumps[source, target].of(loss), _LEAST)
            carry = self._carry(loss)
        before = carry if self.cells else 0.0
        ahead = np.asarray(epochs)
        found = self.laws[target].after(start[:, None], ahead, before)
        spread = self.quantiles[target]
        low, high = (np.interp(np.log(ahead), np.log(EPOCHS), each) for each in spread.T)
        robust = np.maximum(found[2] * np.exp(high), found[1])
        return Forecast(
            found[1], robust, [carry] * len(ahead), np.minimum(found[0] * np.exp(low), found[1])
        )


def fit(traces: Sequence[Trace], carry: bool | None = None) -> PowerLaw:
    """Laws of all pairs and changes of some recorded trainings.

    Robust losses are the expected ones times the 0.95 quantile of (loss / forecast) on seeds that
    the law was not fitted on, one for each number of epochs; with a single seed on those that it
    was.

    Args:
      traces: of one seed or more.
      carry: whether laws depend on the loss before the last change; None where that lowers the
        held-out residual by a tenth.

    Returns:
      The estimator.

    Raises:
      UserError: no trace, or losses that are not above 0.
    """
    if not traces:
        raise UserError("there is no trace to fit a law to; allowed: one or more")
    for loss in (loss for trace in traces for stage in trace.stages for loss in stage.losses):
        if not (math.isfinite(loss) and loss > 0):
            raise UserError(f"a loss of a trace is {loss:g}; allowed: numbers above 0")
    plain = _held_out(traces, False)
    if carry is None:
        other = _held_out(traces, True)
        carry = _size(other) <= _WORTH * _size(plain)
        chosen = other if carry else plain
    else:
        chosen = _held_out(traces, True) if carry else plain
    pairs, before = _points(traces), [each.before for each in _points(traces).values()]
    laws = {pair: _law(points, carry) for pair, points in pairs.items()}
    known = np.concatenate(before)
    cells = (float(known[known > 0].min(initial=np.inf)), float(known.max(initial=0.0)))
    usable = carry and cells[0] < cells[1]
    quantiles = {pair: _quantiles(*chosen[pair]) for pair in laws}
    return PowerLaw(laws, _jumps(traces), quantiles, cells if usable else None)


def _points(traces: Sequence[Trace]) -> dict[Pair, _Points]:
    found: dict[Pair, list] = {}
    for trace in traces:
        before = 0.0
        for stage in trace.stages:
            losses = np.asarray(stage.losses, np.float64)
            for ahead in EPOCHS:
                if ahead < len(losses):
                    here = losses[:-ahead]
                    each = (here, np.full(len(here), ahead), np.full(len(here), before))
                    found.setdefault(stage.pair, []).append((*each, losses[ahead:]))
            before = losses[-1]
    return {
        pair: _Points(*map(np.concatenate, zip(*each, strict=True)))
        for pair, each in found.items()
    }  # fmt: skip


def _law(points: _Points, carry: bool) -> Law:
    """The law with the least squares of log residuals."""
    least = float(min(points.loss.min(), points.later.min()))
    low, high = [0.0, *_LOW], [0.999 * least, *_HIGH]
    first = [0.5 * least, -2.0, 0.0]
    if carry and np.ptp(points.before):
        low, high, first = [*low, -1.0, -5.0], [*high, 1.0, 5.0], [*first, 0.0, 0.0]
    found = optimize.least_squares(
        lambda values: points.residuals(Law(*values)), first, bounds=(low, high), loss="soft_l1",
        f_scale=0.1, x_scale="jac", max_nfev=200,
    )  # fmt: skip
    return Law(*map(float, found.x))


def _others(traces: Sequence[Trace]) -> Iterator[tuple[list[Trace], list[Trace]]]:
    """(to fit on, held out), seed by seed."""
    seeds = sorted({trace.seed for trace in traces})
    for seed in seeds:
        held = [trace for trace in traces if trace.seed == seed]
        rest = [trace for trace in traces if trace.seed != seed]
        yield rest or held, held


def _held_out(traces: Sequence[Trace], carry: bool) -> dict[Pair, tuple[np.ndarray, np.ndarray]]:
    """(epochs, residuals) by pair, of laws that were fitted on other seeds."""
    found: dict[Pair, list] = {}
    for fitted, held in _others(traces):
        laws = {pair: _law(points, carry) for pair, points in _points(fitted).items()}
        for pair, points in _points(held).items():
            if pair in laws:
                each = points.epochs, points.residuals(laws[pair])
                found.setdefault(pair, []).append(each)
    return {
        pair: tuple(map(np.concatenate, zip(*each, strict=True))) for pair, each in found.items()
    }


def _size(residuals: Mapping[Pair, tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([each for _, each in residuals.values()]) ** 2)))


def _quantiles(epochs: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """f64[numbers of epochs, 2]; of a number that was never seen those of the largest that was."""
    rows, last = [], np.zeros(2)
    for ahead in EPOCHS:
        some = residuals[epochs == ahead]
        last = np.quantile(some, QUANTILES) if len(some) else last
        rows.append(last)
    return np.array(rows)


def _jumps(traces: Sequence[Trace]) -> dict[tuple[Pair, Pair], Jump]:
    fitted = _lines(traces)
    residuals: dict[tuple[Pair, Pair], list[float]] = {move: [] for move in fitted}
    for others, held in _others(traces):
        lines = _lines(others)
        for move, points in _changes(held).items():
            a, b = lines.get(move, fitted[move])
            residuals[move] += [after - loss - a - b * loss for loss, after in points]
    return {
        move: Jump(a, b, *map(float, np.quantile(residuals[move], QUANTILES)))
        for move, (a, b) in fitted.items()
    }


def _lines(traces: Sequence[Trace]) -> dict[tuple[Pair, Pair], tuple[float, float]]:
    """(a, b) of the jump a + b loss by least squares; a constant for fewer than four jumps."""
    found = {}
    for move, points in _changes(traces).items():
        losses, after = np.array(points).T
        if len(losses) < 4 or np.ptp(losses) < _LEAST:
            found[move] = float((after - losses).mean()), 0.0
        else:
            b, a = np.polyfit(losses, after - losses, 1)
            found[move] = float(a), float(b)
    return found


def _changes(traces: Sequence[Trace]) -> dict[tuple[Pair, Pair], list[tuple[float, float]]]:
    """(loss before, loss right after) of every change, each once."""
    found: dict[tuple[Pair, Pair], dict[tuple[float, float], None]] = {}
    for trace in traces:
        for one, two in zip(trace.stages, trace.stages[1:], strict=False):
            point = one.losses[-1], two.losses[0]
            found.setdefault((one.pair, two.pair), {})[point] = None
    return {move: list(points) for move, points in found.items()}
