"""Tables, grids and limits: what is allowed, and one line for what is not."""

import numpy as np
import pytest

from dynhp_jax import UserError
from dynhp_jax.planner import Grid, Limits, Pair, State, Tables, matched


def tables(**changes):
    shape = (2, 1)
    values = {
        "models": ("L", "S"),
        "nodes": ("gold",),
        "time": np.ones(shape),
        "energy": np.ones(shape),
        "change_time": np.zeros(shape * 2),
        "change_energy": np.zeros(shape * 2),
    }
    return Tables(**values | changes)


def with_value(shape, value, at):
    found = np.ones(shape)
    found[at] = value
    return found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"energy": with_value((2, 1), -1, (1, 0))}, "energy has -1 for S on gold; allowed: above"),
        ({"energy": np.zeros((2, 1))}, "energy has 0 for L on gold; allowed: above 0"),
        ({"time": with_value((2, 1), np.nan, (0, 0))}, "time has nan for L on gold; allowed: 0 or"),
        ({"time": np.ones((1, 2))}, r"time has the shape \(1, 2\); allowed: \(2, 1\)"),
        ({"time": "fast"}, "the table time is no array of numbers"),
        ({"change_time": np.ones((2, 1) * 2)}, "has 1 for L on gold to L on gold; allowed: 0 from"),
        ({"models": ("L", "L")}, "models are .'L', 'L'.; allowed: one name or more, each once"),
        ({"start": Pair("M", "gold")}, "the start is .'M', 'gold'.; allowed: a pair of these"),
        ({"energy": with_value((2, 1), np.inf, (1, 0))}, "lead from L on gold to the model 'S'"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_line(changes, said):
    with pytest.raises(UserError, match=said) as error:
        tables(**changes)
    assert "\n" not in str(error.value)


def test_other_limits_and_grids_are_one_line():
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="deadline"):
            Limits(0.1, bad)
    with pytest.raises(UserError, match="target is nan"):
        Limits(np.nan, 1.0)
    with pytest.raises(UserError, match="grid's loss is 0"):
        Grid(0, 1.0)
    with pytest.raises(UserError, match="3 node sets for 2 models"):
        matched("LS", "gsb", time=(1, 1), energy=(1, 1))
    with pytest.raises(UserError, match="no pair of these tables"):
        tables().moves(Pair("M", "gold"))


def test_moves_are_those_of_finite_costs():
    found = matched("LMS", "gsb", time=(1, 0.8, 0.5), energy=(1, 0.5, 0.2), change_energy=0.1)
    assert [move.target.model for move in found.moves(Pair("M", "s"))] == ["M", "S"]
    both = matched("LM", "gs", time=(1, 1), energy=(1, 1), back=True)
    assert [move.target.model for move in both.moves(Pair("M", "s"))] == ["L", "M"]
    (same, other, _) = found.moves(found.start)
    assert same.change_energy == 0 and other[1:] == (0, 0.1, 0.8, 0.5)


def test_a_state_keeps_its_stages():
    large, small = Pair("L", "g"), Pair("S", "b")
    state = State.beginning(large, 2.0).after(large, 1.0, 3.0)
    later = state.after(small, 1.1, 2.0, changed=1.5)
    assert later.before_change == 1.0 and later.time == 5.0 and later.loss == 1.1
    assert state.before_change is None and later.stages[0].losses == (2.0, 1.0)
