"""The plan from the present state: the cheapest path that meets target and deadline.

>>> from dynhp_jax.planner.estimators.exact import Curves
>>> from dynhp_jax.planner.tables import matched
>>> large, small = Pair("L", "gold"), Pair("S", "bronze")
>>> tables = matched(("L", "S"), ("gold", "bronze"), time=(1, 0.5), energy=(1, 0.2))
>>> known = Curves({large: (8, 5, 3, 2), small: (8, 6, 5, 4, 3)}, {(large, small): 1.0})
>>> found = plan(State.beginning(large, 8.0), tables, known, Limits(3.0, 10.0), Grid(1.0, 0.5))
>>> [f"{step.pair}: {step.expected:g}" for step in found.steps], round(found.energy, 2)
(['S on bronze: 7', 'S on bronze: 5.5', 'S on bronze: 4.5', 'S on bronze: 3.5', \
'S on bronze: 3'], 1.0)
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.planner.estimators.estimator import Estimator
from dynhp_jax.planner.graph import EPOCHS, Graph, Path, Search, Vertex, cheapest, paths
from dynhp_jax.planner.score import OPPORTUNITIES, RISKS, best
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Grid, Limits, Pair, Tables

_LOOK_AHEAD = 20  # deadlines: as far as the earliest time of a target is looked for


class Step(NamedTuple):
    """An epoch of a plan.

    Attributes:
      pair: that trains.
      expected, robust: the loss after it.
      time, energy: seconds and joules from the start of training (of the energy: from now).
    """

    pair: Pair
    expected: float
    robust: float
    time: float
    energy: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to train, epoch by epoch, from now on.

    Attributes:
      steps: the epochs; none where the target is met already.
      energy: joules from now on.
      time: seconds of the whole training.
      rounding: the share of the loss's way that the grid lost.
    """

    steps: tuple[Step, ...]
    energy: float
    time: float
    rounding: float = 0.0

    @property
    def action(self) -> Pair | None:
        """The pair to train in the next epoch; None where nothing is left to do."""
        return self.steps[0].pair if self.steps else None


@dataclasses.dataclass(frozen=True)
class Infeasible:
    """Why there is no plan.

    Attributes:
      why: one line.
      loss: the lowest robust loss by the deadline.
      time: seconds at which the target is met at the earliest; None where it is not within twenty
        deadlines.
      grid: the resolution of losses to take, where the grid is the reason; else None.
    """

    why: str
    loss: float
    time: float | None
    grid: float | None = None


def plan(
    state: State,
    tables: Tables,
    estimator: Estimator,
    limits: Limits,
    grid: Grid,
    *,
    risk: str = "none",
    opportunity: str = "none",
    epochs: Sequence[int] = EPOCHS,
) -> Plan | Infeasible:
    """The cheapest way to the target within the deadline, by robust estimates.

    Args:
      state: where training stands.
      tables: costs, and what is allowed.
      estimator: of the losses.
      limits: target and deadline.
      grid: resolutions.
      risk: 'return' makes paths dearer whose first move costs much to undo; 'none'.
      opportunity: 'ratio' makes paths cheaper whose expected losses are better than their robust
        ones; 'none'. Both cost energy even where estimates are exact (see docs/planner.md).
      epochs: numbers of epochs of an edge of the graph.

    Returns:
      The plan, or why there is none.

    Raises:
      UserError: an option that there is not, or a pair that the tables do not know.
    """
    for name, value, allowed in (
        ("risk", risk, RISKS),
        ("opportunity", opportunity, OPPORTUNITIES),
    ):
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise UserError(f"{name} is {shown(value)}; allowed: {choices}")
    if state.pair not in tables.places:
        raise UserError(f"the state's {state.pair} is no pair of the tables")
    if limits.met(state.loss):
        return Plan((), 0.0, state.time)
    units = math.floor((limits.time - state.time) / grid.time + 1e-9)
    fastest = max(1, min(map(grid.units, tables.time[np.isfinite(tables.time)])))
    in_time = [each for each in epochs if each * fastest <= units]
    graph = Graph(tables, estimator, grid, limits, in_time)
    root = graph.root(state)
    told = Search([False], [(np.inf, 0)])
    if risk == opportunity == "none":
        found = cheapest(graph, root, units, told)
    else:
        found = best(graph, root, units, risk, opportunity, told)
    if found is None:
        return _infeasible(graph, root, state, limits, told)
    lost = _rounding(root.loss, found, limits)
    if lost > grid.bias:
        finer = grid.loss * grid.bias / lost
        return Infeasible(
            f"the grid of losses ({grid.loss:g}) loses {100 * lost:.0f} % of the way to the target;"
            f" allowed: {100 * grid.bias:.0f} %; take {finer:.2g}",
            found.edges[-1].robust, state.time + found.units * grid.time, finer,
        )  # fmt: skip
    steps = _steps(graph, root, found, state)
    return Plan(steps, found.energy, state.time + found.units * grid.time, lost)


def _rounding(loss: float, path: Path, limits: Limits) -> float:
    """What rounding added to losses, as a share of all that the path takes off."""
    lost = way = 0.0
    for edge in path.edges:
        reached = edge.robust if edge.target is None else edge.target.loss
        lost += reached - edge.robust
        way += max(0.0, loss - edge.robust)
        loss = reached
    return lost / way if way else 0.0


def _infeasible(
    graph: Graph, root: Vertex, state: State, limits: Limits, told: Search
) -> Infeasible:
    grid = graph.grid
    lowest, at = told.lowest[0]
    reached = min(lowest, state.loss)
    if graph.trapped is not None:
        finer = graph.trapped / 10
        why = (
            f"the grid of losses ({grid.loss:g}) swallows decrements of {graph.trapped:.3g}; take"
            f" {finer:.2g}, or edges of more epochs"
        )
        return Infeasible(why, reached, None, finer)
    far = math.ceil(_LOOK_AHEAD * limits.time / grid.time)
    earliest = next(paths(graph, root, far, fastest=True), None)
    time = None if earliest is None else state.time + earliest.units * grid.time
    near = f"the lowest robust loss by then is {reached:.4g}"
    if np.isfinite(lowest):
        near += f", after {state.time + at * grid.time:.4g} s"
    later = (
        f"it is met after {time:.4g} s at the earliest"
        if time is not None
        else f"it is not met within {_LOOK_AHEAD} times the deadline either"
    )
    why = f"no plan meets a loss of {limits.loss:g} within {limits.time:g} s: {near}; {later}"
    return Infeasible(why, reached, time)


def _steps(graph: Graph, root: Vertex, path: Path, state: State) -> tuple[Step, ...]:
    """The path epoch by epoch; losses between the ends of edges by the estimator."""
    steps: list[Step] = []
    vertex, expected = root, root.loss
    carry = root.carry
    units, energy = 0, 0.0
    moves = {pair: graph.tables.moves(pair) for pair in graph.tables.places}
    for edge in path.edges:
        ahead = np.arange(1, edge.epochs + 1)
        robust = graph.estimator.after(
            vertex.pair, edge.pair, vertex.loss, vertex.carry, ahead
        ).robust
        likely = graph.estimator.after(vertex.pair, edge.pair, expected, carry, ahead)
        (move,) = (each for each in moves[vertex.pair] if each.target == edge.pair)
        units += graph.grid.units(move.change_time)
        energy += move.change_energy
        for number in range(edge.epochs):
            units += graph.grid.units(move.time)
            energy += move.energy
            time = state.time + units * graph.grid.time
            steps.append(
                Step(edge.pair, float(likely.expected[number]), float(robust[number]), time, energy)
            )
        expected, carry = float(likely.expected[-1]), likely.carries[-1]
        if edge.target is not None:
            vertex = edge.target
    return tuple(steps)
