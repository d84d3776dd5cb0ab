"""Plans against all sequences of actions, one by one."""

import dataclasses
import math

import numpy as np
import pytest

from dynhp_jax import UserError
from dynhp_jax.planner import (
    Curves,
    Grid,
    Infeasible,
    Limits,
    Pair,
    Plan,
    State,
    matched,
    plan,
    replanned,
    world,
)
from dynhp_jax.planner.baselines import greedy, never_switch, one_switch, optimum, static_learn
from planner.instances import brute, instance

GRID = Grid(1.0, 1.0)


@pytest.mark.parametrize("back", [True, False], ids=["back", "no way back"])
def test_a_plan_is_the_best_of_all_sequences(back):
    binding = infeasible = 0
    for seed in range(100):
        problem = instance(seed, back)
        at = problem.start, problem.tables, problem.truth, problem.limits
        energy, time = brute(problem)
        found = plan(*at, GRID)
        if math.isinf(energy):
            infeasible += 1
            assert isinstance(found, Infeasible) and found.grid is None, seed
            continue
        binding += problem.limits.time < 12
        assert found.energy == energy and found.time <= problem.limits.time, seed
        assert found.steps[-1].expected <= 2 and found.steps[-1].energy == energy
        assert (
            optimum(problem.tables, problem.truth, problem.start, problem.limits).energy == energy
        )
        done = replanned(world(problem.truth), *at, GRID)
        assert done.met and done.energy == energy, seed
    assert binding >= 15 and infeasible <= 20, (binding, infeasible)


def problem_of(seed, back=True):
    found = instance(seed, back)
    return found.start, found.tables, found.truth, found.limits


@pytest.mark.parametrize("seed", range(6))
def test_more_time_and_a_higher_target_never_cost_more(seed):
    start, tables, truth, _ = problem_of(seed)

    def energy(loss, time):
        found = plan(start, tables, truth, Limits(loss, time), GRID)
        return math.inf if isinstance(found, Infeasible) else found.energy

    later = [energy(2.0, time) for time in (4.0, 6.0, 8.0, 12.0, 20.0)]
    easier = [energy(loss, 9.0) for loss in (0.0, 1.0, 2.0, 4.0, 6.0)]
    assert later == sorted(later, reverse=True) and easier == sorted(easier, reverse=True)
    assert math.isfinite(later[-1])


def test_what_cannot_be_is_said_with_the_nearest_that_can():
    start, tables, truth, _ = problem_of(1)
    found = plan(start, tables, truth, Limits(2.0, 2.0), GRID)
    assert isinstance(found, Infeasible) and "\n" not in found.why
    # By then the lowest of all sequences is reached, and the target at the time that is said.
    assert isinstance(plan(start, tables, truth, Limits(2.0, found.time), GRID), Plan)
    earlier = Limits(2.0, found.time - 1)
    assert isinstance(plan(start, tables, truth, earlier, GRID), Infeasible)
    if found.loss < start.loss:
        assert isinstance(plan(start, tables, truth, Limits(found.loss, 2.0), GRID), Plan)
    lower = Limits(found.loss - 1, 2.0)
    assert isinstance(plan(start, tables, truth, lower, GRID), Infeasible)
    assert plan(start, tables, truth, Limits(100.0, 1.0), GRID).action is None


def falling(share):
    """A pair whose loss falls by this in every epoch."""
    large, small = Pair("L", "g"), Pair("S", "b")
    known = Curves({large: (2.0, 2.0 - share), small: (2.0, 2.0 - share)}, {(large, small): 0.0})
    many = np.arange(200)
    return dataclasses.replace(
        known, curves={large: 9 - 0.03 * many, small: 9 - share * many}
    ), matched("LS", "gb", time=(1, 1), energy=(3.0, 1.0))


def test_a_grid_that_swallows_decrements_is_refused_with_the_one_to_take():
    known, tables = falling(0.02)
    start, limits = State.beginning(Pair("L", "g"), 9.0), Limits(8.0, 100.0)
    found = plan(start, tables, known, limits, Grid(0.1, 1.0), epochs=(1,))
    assert isinstance(found, Infeasible) and "swallows decrements of 0.02" in found.why
    assert found.grid == pytest.approx(0.002)
    fine = plan(start, tables, known, limits, Grid(found.grid, 1.0))
    coarse = plan(start, tables, known, limits, Grid(0.1, 1.0))
    assert fine.energy == 50 and fine.energy <= coarse.energy <= 1.1 * fine.energy
    done = replanned(world(known), start, tables, known, limits, Grid(0.1, 1.0), epochs=(1,))
    assert done.met and done.energy == pytest.approx(50)


def test_risk_and_opportunity_are_asked_for_by_name():
    energies = {}
    for options in ({}, {"risk": "return"}, {"opportunity": "ratio"}):
        total = 0.0
        for seed in range(8):
            at = problem_of(seed, back=False)
            done = replanned(world(at[2]), *at, GRID, **options)
            total += done.energy
        energies[str(options)] = total
    # Without a way back the risk is 1; with exact estimates the opportunity is.
    assert len(set(energies.values())) == 1
    with pytest.raises(UserError, match="risk is 'high'; allowed: 'none', 'return'"):
        plan(*problem_of(0), GRID, risk="high")
    with_back = problem_of(1)
    safe = replanned(world(with_back[2]), *with_back, GRID, risk="return")
    assert safe.met and safe.energy >= replanned(world(with_back[2]), *with_back, GRID).energy


def test_baselines_are_ordered_and_keep_their_promises():
    large, middle, small = Pair("L", "g"), Pair("M", "s"), Pair("S", "b")
    epochs = np.arange(60)
    curves = {
        large: 0.05 + (0.5 + 0.5 * epochs) ** -1.0,
        middle: 0.12 + (0.5 + 0.4 * epochs) ** -1.0,
        small: 0.25 + (0.5 + 0.3 * epochs) ** -1.0,
    }
    jumps = {(large, middle): 0.05, (large, small): 0.1, (middle, small): 0.05}
    known = Curves(curves, jumps)
    tables = matched("LMS", "gsb", time=(1, 0.8, 0.5), energy=(1, 0.5, 0.2))
    start = State.beginning(large, 2.05)
    for loss in (0.3, 0.5):
        at = tables, known, start, Limits(loss, 100.0)
        best, one, none = optimum(*at), one_switch(*at), never_switch(*at)
        static, quick = static_learn(*at), greedy(*at)
        assert best.energy <= one.energy <= none.energy or one.energy > none.energy
        assert all(
            each is None or best.energy <= each.energy for each in (one, none, static, quick)
        )
        assert [pair for pair, _ in one.epochs][0] == large and len(one.epochs) == 2
        if static is not None:
            assert len(static.gains) == 3 and static.losses[-1] <= loss
            assert static.spread == pytest.approx(1 - min(static.gains) / max(static.gains))
        done = replanned(world(known), start, tables, known, at[3], Grid(0.005, 0.1))
        assert done.met and best.energy <= done.energy <= 1.1 * best.energy + 0.2
    assert optimum(tables, known, start, Limits(0.01, 12.0)) is None
