"""Estimators on traces whose laws are known."""

import numpy as np
import pytest

from dynhp_jax import UserError
from dynhp_jax.planner import Grid, Limits, Pair, Plan, Stage, State, matched, plan
from dynhp_jax.planner.errors import of_changes, of_repeating, of_runs
from dynhp_jax.planner.estimators import power_law, published
from dynhp_jax.planner.estimators.published import Features
from dynhp_jax.planner.state import Trace

LARGE, SMALL = Pair("L", "gold"), Pair("S", "bronze")


def traces(seed, noise=0.0, memory=0.0):
    """Curves f + (u + c t)^-p; the small model's floor falls with the large one's epochs."""
    rng = np.random.default_rng(seed)

    def curve(first, floor, pace, power, epochs):
        t = np.arange(epochs + 1)
        start = (first - floor) ** (-1 / power)
        found = floor + (start + pace * t) ** -power
        return found * np.exp(noise * rng.standard_normal(epochs + 1) * (t > 0))

    trunk = curve(2.3, 0.05, 0.4, 0.8, 40)
    for switch in (5, 10, 20, 40):
        before = trunk[switch]
        entered = before + 0.1 + 0.2 * before
        branch = curve(entered, 0.1 + memory * before, 0.3, 1.1, 30)
        yield Trace(seed, (Stage(LARGE, tuple(trunk[: switch + 1])), Stage(SMALL, tuple(branch))))


def test_a_law_without_noise_is_found():
    found = power_law.fit(list(traces(0)), carry=False)
    law = found.laws[LARGE]
    assert law.f0 == pytest.approx(0.05, abs=0.01) and np.exp(law.log_p) == pytest.approx(0.8, 0.1)
    (trace, *_) = traces(0)
    seen = found.after(LARGE, LARGE, trace.stages[0].losses[0], (), np.arange(1, 6))
    np.testing.assert_allclose(seen.expected, trace.stages[0].losses[1:], rtol=0.01)
    jump = found.jumps[LARGE, SMALL]
    assert (jump.a, jump.b) == (pytest.approx(0.1, abs=1e-6), pytest.approx(0.2, abs=1e-6))
    assert (SMALL, LARGE) not in found.jumps
    assert np.isinf(found.after(SMALL, LARGE, 1.0, (), np.array([1])).robust).all()


def test_many_epochs_are_single_ones_repeated():
    law = power_law.Law(0.1, -1.0, 0.2)
    one = 2.0
    for _ in range(7):
        one = law.after(one, 1, 0.0)
    assert law.after(2.0, 7, 0.0) == pytest.approx(float(one))
    assert law.after(0.05, 7, 0.0) == 0.05  # below the floor it stays


def test_the_loss_before_a_cut_is_remembered_where_it_matters():
    several = [trace for seed in range(2) for trace in traces(seed, 0.01, memory=0.8)]
    assert power_law.fit(several).cells is not None
    several = [trace for seed in range(2) for trace in traces(seed, 0.01)]
    assert power_law.fit(several).cells is None


def test_intervals_cover_seeds_that_were_not_seen():
    fitted = power_law.fit([trace for seed in range(4) for trace in traces(seed, 0.03)])
    fresh = [trace for seed in range(10, 14) for trace in traces(seed, 0.03)]
    runs, changes = of_runs(fitted, fresh), of_changes(fitted, fresh)
    assert 0.8 <= runs.coverage <= 0.97, runs
    assert runs.mean < 0.8 * of_repeating(fresh)
    assert changes.mean < 0.05 and changes.count == 16
    tables = matched(("L", "S"), ("gold", "bronze"), time=(1, 0.5), energy=(1, 0.2))
    start = State.beginning(LARGE, 2.3)
    found = plan(start, tables, fitted, Limits(0.4, 100.0), Grid(0.01, 0.5))
    assert isinstance(found, Plan) and found.action == LARGE or found.action == SMALL
    assert all(step.expected <= step.robust for step in found.steps)


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0])
def test_bad_losses_are_one_line(bad):
    with pytest.raises(UserError, match="allowed: numbers above 0"):
        power_law.fit([Trace(0, (Stage(LARGE, (1.0, bad)),))])
    with pytest.raises(UserError, match="no trace"):
        power_law.fit([])


def test_the_published_networks_learn_and_plan():
    several = list(traces(0, 0.02))
    fresh = list(traces(10, 0.02))[:2]
    features = {LARGE: Features(10, 45_000, 0.0), SMALL: Features(15, 1_500, 0.75)}
    beyond = power_law.fit(several, carry=False)
    found = published.fit(several, features, beyond, steps=300)
    runs, changes = of_runs(found, fresh), of_changes(found, fresh)
    assert runs.mean < 0.15 and changes.mean < 0.2 and runs.coverage > 0.5, (runs, changes)
    tables = matched(("L", "S"), ("gold", "bronze"), time=(1, 0.5), energy=(1, 0.2))
    start = State.beginning(LARGE, 2.3)
    plans = [plan(start, tables, each, Limits(0.5, 60.0), Grid(0.01, 0.5))
             for each in (found, beyond)]  # fmt: skip
    assert plans[0].energy == pytest.approx(plans[1].energy, rel=0.5)
    # A vertex further ahead is the other estimator's.
    ahead = found.after(LARGE, LARGE, 1.0, (), np.array([1, 7]))
    np.testing.assert_array_equal(
        ahead.expected, beyond.after(LARGE, LARGE, 1.0, (), np.array([1, 7])).expected
    )
