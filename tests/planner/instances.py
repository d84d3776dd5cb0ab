"""Random planning problems on integer grids, and all their sequences of actions, one by one."""

import dataclasses
import math

import numpy as np

from dynhp_jax.planner import Forecast, Limits, Pair, State, Tables

SHAPE = 3, 2
HIGHEST = 13  # losses above are as this one


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Exact losses: a decrement by pair, loss and whether the epoch's number is odd; jumps."""

    decrements: dict
    jumps: dict

    def begin(self, state):
        return sum(len(stage.losses) - 1 for stage in state.stages) % 2

    def changed(self, source, target, loss, carry):
        return loss + self.jumps[source, target]

    def after(self, source, target, loss, carry, epochs):
        if source != target:
            loss = self.changed(source, target, loss, carry)
        losses, carries, done, lost = [], [], 0, self.decrements[target]
        for number in epochs.tolist():
            for _ in range(done, number):
                loss -= lost[carry][min(max(0, int(loss)), HIGHEST)]
                carry = 1 - carry
            losses.append(loss)
            carries.append(carry)
            done = number
        found = np.array(losses)
        return Forecast(found, found, carries)


@dataclasses.dataclass(frozen=True)
class Instance:
    """Integers throughout: costs, losses, target and deadline."""

    tables: Tables
    truth: Known
    start: State
    limits: Limits


def instance(seed, back):
    """A problem of three models on two node sets; with `back` models may grow again.

    The deadline is just too short for the cheapest way where the seed is a multiple of three and
    another way is in time.
    """
    rng = np.random.default_rng(seed)
    energy = rng.integers(1, 10, SHAPE).astype(float)
    energy[1:][rng.random((2, 2)) < 0.2] = np.inf
    energy[0] += 4
    energy[[1, 2], rng.integers(2, size=2)] = rng.integers(1, 6, 2)
    time = rng.integers(1, 4, SHAPE).astype(float)
    change_time, change_energy = (rng.integers(0, high, SHAPE * 2).astype(float) for high in (3, 6))
    for m, n in np.ndindex(SHAPE):
        for cost in (change_time, change_energy):
            if not back:
                cost[m, n, :m] = np.inf
            cost[m, n, m, n] = 0
    tables = Tables(tuple("LMS"), ("g", "s"), time, energy, change_time, change_energy)
    pairs = list(tables.places)
    lost = rng.integers(0, 4, (len(pairs), 2, HIGHEST + 1))
    lost[0] = np.maximum(1, lost[0])
    decrements = dict(zip(pairs, lost.tolist(), strict=True))
    jumps = {(a, b): int(rng.integers(0, 3)) for a in pairs for b in pairs if a != b}
    start = State.beginning(pairs[0], float(rng.integers(6, 10)))
    found = Instance(tables, Known(decrements, jumps), start, Limits(2.0, 12.0))
    if seed % 3 == 0:
        _, late = brute(found)
        tighter = dataclasses.replace(found, limits=Limits(2.0, late - 1.0))
        if math.isfinite(brute(tighter)[0]):
            return tighter
    return found


def brute(problem):
    """(least energy, its time): every sequence of actions is tried, by arrays alone."""
    tables, truth, limits = problem.tables, problem.truth, problem.limits
    pairs = [Pair(m, n) for m in tables.models for n in tables.nodes]
    best = [math.inf, math.inf]

    def go(at, loss, time, energy, odd):
        here = divmod(at, SHAPE[1])
        for to, pair in enumerate(pairs):
            there = divmod(to, SHAPE[1])
            cost = energy + tables.change_energy[here + there] + tables.energy[there]
            late = time + tables.change_time[here + there] + tables.time[there]
            if [cost, late] >= best or late > limits.time or not math.isfinite(cost):
                continue
            entered = loss if to == at else loss + truth.jumps[pairs[at], pair]
            reached = entered - truth.decrements[pair][odd][min(int(entered), HIGHEST)]
            if reached <= limits.loss:
                best[:] = [cost, late]
            else:
                go(to, reached, late, cost, 1 - odd)

    go(pairs.index(problem.start.pair), problem.start.loss, 0.0, 0.0, 0)
    return tuple(best)
