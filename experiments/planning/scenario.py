"""From what was measured to what a planner takes: tables, estimator, grid."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dynhp_jax.planner import Grid, Limits, State, Tables, matched
from dynhp_jax.planner.estimators import power_law, published
from dynhp_jax.planner.estimators.estimator import Jumping
from dynhp_jax.planner.estimators.published import Features
from dynhp_jax.planner.estimators.within import Within
from dynhp_jax.planner.state import Trace
from experiments.planning.measure import LARGE, MIDDLE, SMALL, Measured
from experiments.planning.settings import MODELS, NODES, SECTION_VI, Planning


def tables_of(planning: Planning, measured: Measured) -> Tables:
    """Seconds and joules of epochs and changes; a step that a node has no room for is forbidden.

    An epoch: steps (joules per operation x operations + joules per byte x metered bytes of the
    step), and the measured seconds on this machine times how much slower the node is. A change: the
    model is sent, and the first epoch compiles.

    Raises:
      UserError: a model that no node has room for.
    """
    costs = [measured.costs[model] for model in MODELS]
    if planning.costs == "section6":
        time, energy = map(list, SECTION_VI)
        change_time = change_energy = np.zeros(len(MODELS))
    else:
        time = [measured.seconds[m] * s for m, s in zip(MODELS, planning.slower, strict=True)]
        energy = [
            cost["steps"] * (flop * cost["flops"] + byte * cost["step_bytes"])
            for cost, flop, byte in zip(costs, planning.per_flop, planning.per_byte, strict=True)
        ]
        sent = np.array([cost["model_bytes"] for cost in costs])
        waited = [measured.compile_seconds[model] for model in MODELS]
        change_time = sent / planning.bandwidth + np.array(waited) * planning.slower
        change_energy = sent * planning.per_sent
    for place, (cost, room) in enumerate(zip(costs, planning.limits, strict=True)):
        if room is not None and cost["step_bytes"] > room:
            energy[place] = np.inf
    return matched(
        MODELS, NODES, time=time, energy=energy, change_time=change_time,
        change_energy=change_energy,
    )  # fmt: skip


def estimator_of(
    planning: Planning, measured: Measured, traces: Sequence[Trace], kind: str = ""
) -> Within:
    """The estimator that the config names, or another kind, fitted on some trainings."""
    law: Jumping = power_law.fit(traces)
    if (kind or planning.estimator) == "published":
        features = {
            pair: Features(classes, samples, measured.costs[pair.model]["pruned"])
            for pair, classes, samples in zip(
                (LARGE, MIDDLE, SMALL), planning.classes, planning.examples, strict=True
            )
        }
        law = published.fit(traces, features, law, steps=planning.steps)
    return bounded(planning, law)


def bounded(planning: Planning, law: Jumping) -> Within:
    """No change earlier or later than those that were measured."""
    return Within(law, planning.cuts[0], planning.cuts[-1], frozenset({SMALL}))


def grid_of(planning: Planning, tables: Tables, limits: Limits) -> Grid:
    """The config's; of time, where it names none, a thousandth of the deadline or less."""
    shortest = float(tables.time[np.isfinite(tables.time)].min())
    time = planning.time_grid or min(limits.time / 1_000, max(shortest / 20, limits.time / 1e6))
    return Grid(planning.grid, time)


def start_of(traces: Sequence[Trace]) -> State:
    """Before the first epoch, with the loss that was measured there."""
    return State.beginning(LARGE, float(np.mean([each.stages[0].losses[0] for each in traces])))


def scaled(grid: Grid, factor: float) -> Grid:
    """With a coarser resolution of the losses, whatever it loses."""
    return dataclasses.replace(grid, loss=grid.loss * factor, bias=1e9)
