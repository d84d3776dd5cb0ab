"""Training by a plan: each epoch is planned, enacted and observed, until the target is met."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dynhp_jax.planner.estimators.estimator import Estimator, Exact
from dynhp_jax.planner.plan import Infeasible, Plan, plan
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Grid, Limits, Pair, Tables

_FINER = 3  # times that a grid is made finer by its own advice


class Observed(NamedTuple):
    """What an epoch came to.

    Attributes:
      loss: after it.
      changed: right after the change of model or nodes, before the epoch.
      seconds, joules: of both; None for those of the tables.
    """

    loss: float
    changed: float
    seconds: float | None = None
    joules: float | None = None


@dataclasses.dataclass(frozen=True)
class Executed:
    """A training that was planned anew before every epoch.

    Attributes:
      state: where it ended.
      energy: joules in all.
      energies: after every epoch.
      met: whether the target was met by the deadline.
      plans: that were made, one for each epoch.
      stopped: why there was no plan, if there was none.
    """

    state: State
    energy: float
    energies: tuple[float, ...]
    met: bool
    plans: tuple[Plan, ...]
    stopped: Infeasible | None = None


def world(truth: Exact) -> Callable[[State, Pair], Observed]:
    """An epoch in a world whose losses an exact estimator knows."""

    def step(state: State, pair: Pair) -> Observed:
        at = state.pair, pair, state.loss, truth.begin(state)
        loss = float(truth.after(*at, np.array([1])).expected[0])
        return Observed(loss, state.loss if pair == state.pair else truth.changed(*at))

    return step


def replanned(
    step: Callable[[State, Pair], Observed],
    start: State,
    tables: Tables,
    estimator: Estimator,
    limits: Limits,
    grid: Grid,
    *,
    robust: bool = True,
    told: Callable[[State, Plan], None] = lambda state, plan: None,
    **options,
) -> Executed:
    """Plans, enacts the first epoch, observes; until the target is met or nothing is left.

    Args:
      step: `(state, pair) -> Observed`, which trains an epoch.
      start: the state to begin with.
      tables, estimator, limits, grid: as `plan` takes them. A grid that is too coarse is made
        finer, up to three times.
      robust: whether it ends where no robust plan is left; else it goes on by expected losses.
      told: is called with every state and the plan from there.
      **options: of `plan`.
    """
    state, energies, plans, stopped = start, [], [], None
    while not limits.met(state.loss):
        found = _finely(state, tables, estimator, limits, grid, options)
        if isinstance(found, Infeasible) and not robust:
            found = _finely(state, tables, _Expected(estimator), limits, grid, options)
        if isinstance(found, Infeasible):
            stopped = found
            break
        told(state, found)
        plans.append(found)
        pair = found.action
        (move,) = (each for each in tables.moves(state.pair) if each.target == pair)
        seen = step(state, pair)
        seconds = move.change_time + move.time if seen.seconds is None else seen.seconds
        joules = move.change_energy + move.energy if seen.joules is None else seen.joules
        state = state.after(pair, seen.loss, seconds, seen.changed)
        energies.append((energies[-1] if energies else 0.0) + joules)
    met = bool(limits.met(state.loss)) and state.time <= limits.time * (1 + 1e-9)
    total = energies[-1] if energies else 0.0
    return Executed(state, total, tuple(energies), met, tuple(plans), stopped)


def _finely(state, tables, estimator, limits, grid: Grid, options) -> Plan | Infeasible:
    for _ in range(_FINER):
        found = plan(state, tables, estimator, limits, grid, **options)
        if isinstance(found, Plan) or found.grid is None:
            break
        grid = dataclasses.replace(grid, loss=found.grid)
    return found


@dataclasses.dataclass(frozen=True)
class _Expected:
    """An estimator whose robust losses are the expected ones."""

    estimator: Estimator

    def begin(self, state):
        return self.estimator.begin(state)

    def after(self, *arguments):
        seen = self.estimator.after(*arguments)
        return seen._replace(robust=seen.expected)
