"""Pruning by gates to a size, against a removal of one unit after the other."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from small_runs import go_on, make, start, timeless

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.gates.size_goal import keep_to_size
from dynhp_jax.training import config
from dynhp_jax.training.run import resume

WEIGHTS = {"a": 3, "b": 5}  # numbers that a unit of each group takes


def numbers(masks):
    return int(sum(WEIGHTS[name] * mask.sum() for name, mask in masks.items()))


def one_by_one(rates, masks, gamma, most, in_the_end):
    """The same by a loop: the least active first, until the size is there."""
    left = {name: np.array(mask, np.float32) for name, mask in masks.items()}
    order = sorted((rates[name][k], name, k) for name in rates for k in np.flatnonzero(left[name]))
    for rate, name, k in order:
        if numbers(left) <= most or (rate >= gamma and not in_the_end):
            break
        if left[name].sum() > 1:
            left[name][k] = 0
    return left


@st.composite
def situations(draw):
    sizes = {name: draw(st.integers(1, 6)) for name in WEIGHTS}
    rate = st.sampled_from([k / 8 for k in range(9)])
    rates = {n: np.array(draw(st.lists(rate, min_size=s, max_size=s))) for n, s in sizes.items()}
    masks = {n: np.array(draw(st.lists(st.integers(0, 1), min_size=s, max_size=s)), np.float32)
             for n, s in sizes.items()}  # fmt: skip
    for mask in masks.values():
        mask[draw(st.integers(0, mask.size - 1))] = 1
    return rates, masks, draw(st.integers(8, 50)), draw(st.booleans())


@hypothesis.given(situations(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
@hypothesis.settings(max_examples=300, deadline=None)
def test_as_many_go_as_it_takes_and_the_least_active_first(situation, gamma):
    rates, masks, most, in_the_end = situation
    found = keep_to_size(rates, masks, gamma, most, numbers, None, in_the_end)
    assert all((found[name] <= masks[name]).all() and found[name].any() for name in masks)
    if in_the_end:
        assert numbers(found) <= most  # one unit of each takes 8
    by_gamma = {name: masks[name] * (rates[name] >= gamma) for name in masks}
    if all(mask.any() for mask in by_gamma.values()) or in_the_end:
        expected = one_by_one(rates, masks, gamma, most, in_the_end)
        assert {name: mask.sum() for name, mask in found.items()} == {
            name: mask.sum() for name, mask in expected.items()
        }
        for name, mask in found.items():  # no unit stays that is less active than one that went
            went, stayed = (masks[name] > mask), mask > 0
            if went.any():
                assert rates[name][went].max() <= rates[name][stayed].max()


def sized(size="3KiB", **changes):
    pruning = config.Pruning(stop=3, size=size)
    return make(epochs=5, method="hp", penalty=config.Penalty(lam=4.0), pruning=pruning, **changes)


def test_a_run_ends_at_its_size_and_has_no_price_from_then_on(tmp_path):
    trainer, run = start(sized())
    run, records = go_on(trainer, run, 3)
    resume.save(trainer, run, tmp_path)
    _, rest = go_on(trainer, run, 2)
    resumed = resume.run_of(trainer, resume.newest(trainer, tmp_path))
    assert timeless(go_on(trainer, resumed, 2)[1]) == timeless(rest)
    records += rest
    sizes = [4 * record["parameters"] for record in records]
    assert sizes[2] <= 3072 and sizes[2:] == [sizes[2]] * 3
    assert sizes[2] > 3072 - 4 * 80  # a unit of the first hidden layer and its part in the last
    assert [record["penalty"] > 0 for record in records[1:]] == [s > 3072 for s in sizes[:-1]]


def test_without_a_price_the_size_is_reached_in_the_last_epoch_of_pruning():
    trainer, run = start(sized(gates=config.Gates(open_input=0.99, open_hidden=0.99)))
    _, records = go_on(trainer, run, 4)
    assert 4 * records[1]["parameters"] > 3072 >= 4 * records[2]["parameters"]


@pytest.mark.parametrize("size", ["4MiB", "50"])
def test_a_size_that_cannot_be_is_refused_before_training(size):
    with pytest.raises(ConfigError, match=r"pruning.size.*with the fewest units"):
        start(sized(size))


def test_it_goes_with_pruning_by_gates_that_ends():
    with pytest.raises(ConfigError, match="pruning.stop"):
        config.Pruning(size="3KiB")
    with pytest.raises(ConfigError, match="method 'dense'"):
        make(method="dense", pruning=config.Pruning(stop=3, size="3KiB"))
    with pytest.raises(ConfigError, match="or empty"):
        config.Pruning(stop=3, size="small")
