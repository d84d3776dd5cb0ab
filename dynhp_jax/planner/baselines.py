"""What a plan is held against, all by the true losses: optimum, StaticLearn, OneSwitch, greedy.

>>> from dynhp_jax.planner.estimators.exact import Curves
>>> from dynhp_jax.planner.tables import matched
>>> large, small = Pair("L", "gold"), Pair("S", "bronze")
>>> tables = matched(("L", "S"), ("gold", "bronze"), time=(1, 0.5), energy=(1, 0.7))
>>> known = Curves({large: (8, 5, 3, 2), small: (8, 6, 5, 4, 3)}, {(large, small): 1.0})
>>> start, limits = State.beginning(large, 8.0), Limits(3.0, 10.0)
>>> optimum(tables, known, start, limits).epochs
((Pair(model='L', nodes='gold'), 2),)
>>> one_switch(tables, known, start, limits).epochs
((Pair(model='L', nodes='gold'), 1), (Pair(model='S', nodes='bronze'), 3))
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from dynhp_jax.planner.estimators.estimator import Carry, Exact
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Limits, Pair, Tables

HORIZON = 200  # epochs


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A training from its start to the target.

    Attributes:
      epochs: ((pair, epochs), ...), in order.
      losses: after every epoch.
      energy: joules.
      time: seconds.
      gains: by how much each stage lowered the loss, from right after its change.
    """

    epochs: tuple[tuple[Pair, int], ...]
    losses: tuple[float, ...]
    energy: float
    time: float
    gains: tuple[float, ...] = ()

    @property
    def spread(self) -> float:
        """By how much the stages' gains differ, as a share of the largest."""
        top = max(self.gains, default=0.0)
        return (top - min(self.gains)) / top if top > 0 else math.inf


def optimum(
    tables: Tables, truth: Exact, start: State, limits: Limits, horizon: int = HORIZON
) -> Schedule | None:
    """The cheapest of all sequences of pairs; None if none meets target and deadline.

    All sequences are enumerated epoch by epoch. One is given up where another one is at the same
    pair with the same loss and the same history and needs no more energy and time, or where it is
    dearer than the best that has met the target, or than the best with one change.

    Args:
      tables: costs, and what is allowed.
      truth: knows the true losses.
      start: the state.
      limits: target and deadline.
      horizon: epochs at most.
    """
    if limits.met(start.loss):
        return Schedule((), (), 0.0, start.time)
    one, best = np.array([1]), None
    moves = {pair: tables.moves(pair) for pair in tables.places}
    simple = [one_switch(tables, truth, start, limits, horizon),
              never_switch(tables, truth, start, limits, horizon)]  # fmt: skip
    bound = min((each.energy for each in simple if each), default=math.inf) * (1 + 1e-9)
    fronts = {(start.pair, start.loss, truth.begin(start)): [(0.0, start.time, (), ())]}
    for _ in range(horizon):
        after: dict = {}
        for (pair, loss, carry), labels in fronts.items():
            for move in moves[pair]:
                seen = truth.after(pair, move.target, loss, carry, one)
                reached = float(seen.expected[0])
                if not math.isfinite(reached):
                    continue
                for energy, time, pairs, losses in labels:
                    cost = energy + move.change_energy + move.energy
                    late = time + move.change_time + move.time
                    if late > limits.time * (1 + 1e-9) or cost >= bound:
                        continue
                    label = (cost, late, (*pairs, move.target), (*losses, reached))
                    if limits.met(reached):
                        best, bound = label, cost
                        continue
                    held = after.setdefault((move.target, reached, seen.carries[0]), [])
                    if not any(each[0] <= cost and each[1] <= late for each in held):
                        held[:] = [e for e in held if not (cost <= e[0] and late <= e[1])]
                        held.append(label)
        if not after:
            break
        fronts = after
    if best is None:
        return None
    energy, time, pairs, losses = best
    epochs = tuple((pair, len(list(run))) for pair, run in itertools.groupby(pairs))
    return Schedule(epochs, losses, energy, time)


def one_switch(
    tables: Tables, truth: Exact, start: State, limits: Limits, horizon: int = HORIZON
) -> Schedule | None:
    """The cheapest with one change, over all pairs and epochs of the change; arguments as above."""
    found = _schedules(tables, truth, start, limits, horizon, 2)
    return min(found, key=lambda each: each.energy, default=None)


def never_switch(
    tables: Tables, truth: Exact, start: State, limits: Limits, horizon: int = HORIZON
) -> Schedule | None:
    """The pair of the start until the target; arguments as above."""
    return next(_schedules(tables, truth, start, limits, horizon, 1), None)


def static_learn(
    tables: Tables,
    truth: Exact,
    start: State,
    limits: Limits,
    horizon: int = HORIZON,
    margin: float = 0.05,
) -> Schedule | None:
    """The cheapest in which all models lower the loss by as much, within a margin.

    Where whole epochs allow none, the one whose gains differ least; its `spread` says so.

    Args:
      tables, truth, start, limits, horizon: as above.
      margin: by which gains may differ, as a share of the largest.
    """
    found = list(_schedules(tables, truth, start, limits, horizon, len(tables.models)))
    alike = [each for each in found if each.spread <= margin]
    if alike:
        return min(alike, key=lambda each: each.energy)
    return min(found, key=lambda each: (each.spread, each.energy), default=None)


def greedy(
    tables: Tables, truth: Exact, start: State, limits: Limits, horizon: int = HORIZON
) -> Schedule | None:
    """In every epoch the pair that lowers the loss most for a joule; arguments as above."""
    one, pair, loss, carry = np.array([1]), start.pair, start.loss, truth.begin(start)
    energy, time, pairs, losses = 0.0, start.time, [], []
    while not limits.met(loss) and len(pairs) < horizon:
        ranked = []
        for move in tables.moves(pair):
            seen = truth.after(pair, move.target, loss, carry, one)
            cost = move.change_energy + move.energy
            ranked.append(((loss - float(seen.expected[0])) / cost, move, seen, cost))
        if not ranked:
            return None
        gain, move, seen, cost = max(ranked, key=lambda each: each[0])
        if not math.isfinite(gain):
            return None
        pair, loss, carry = move.target, float(seen.expected[0]), seen.carries[0]
        energy, time = energy + cost, time + move.change_time + move.time
        pairs.append(pair)
        losses.append(loss)
    if not limits.met(loss) or time > limits.time * (1 + 1e-9):
        return None
    epochs = tuple((pair, len(list(run))) for pair, run in itertools.groupby(pairs))
    return Schedule(epochs, tuple(losses), energy, time)


def _schedules(
    tables: Tables, truth: Exact, start: State, limits: Limits, horizon: int, stages: int
) -> Iterator[Schedule]:
    """All schedules of so many stages, of different models; the last one meets the target."""
    empty = Schedule((), (), 0.0, start.time)

    def longer(so_far: Schedule, pair: Pair, loss: float, carry: Carry, left: int):
        first = not so_far.epochs
        used = {each.model for each, _ in so_far.epochs}
        for move in tables.moves(pair):
            if first and move.target != start.pair or move.target.model in used:
                continue
            done = len(so_far.losses)
            ahead = np.arange(1, horizon - done + 1)
            if not len(ahead):
                continue
            seen = truth.after(pair, move.target, loss, carry, ahead)
            losses = [float(each) for each in seen.expected]
            at = pair, move.target, loss, carry
            entered = loss if move.target == pair else truth.changed(*at)
            for count, reached in enumerate(losses, 1):
                time = so_far.time + move.change_time + count * move.time
                if not math.isfinite(reached) or time > limits.time * (1 + 1e-9):
                    break
                there = Schedule(
                    (*so_far.epochs, (move.target, count)),
                    (*so_far.losses, *losses[:count]),
                    so_far.energy + move.change_energy + count * move.energy,
                    time,
                    (*so_far.gains, entered - reached),
                )
                if limits.met(reached):
                    if left == 1:
                        yield there
                    break
                if left > 1:
                    carry_there = seen.carries[count - 1]
                    yield from longer(there, move.target, reached, carry_there, left - 1)

    yield from longer(empty, start.pair, start.loss, truth.begin(start), stages)


def described(found: Sequence[tuple[Pair, int]]) -> str:
    """A schedule in words.

    >>> described(((Pair("L", "gold"), 12), (Pair("S", "bronze"), 30)))
    'L 12, S 30'
    """
    return ", ".join(f"{pair.model} {epochs}" for pair, epochs in found)
