"""Activation rates and the pruning rule, against the oracle and on drawn gates."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.gates import activity, hard_concrete


def masks_and_rates():
    """Masks with at least one living unit, and rates on a coarse scale so that ties happen."""
    size = st.integers(1, 8)
    return size.flatmap(
        lambda n: st.tuples(
            st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n).filter(any),
            st.lists(st.sampled_from([i / 10 for i in range(11)]), min_size=n, max_size=n),
        )
    )


@pytest.mark.parametrize("batch", [None, 5])
def test_rates_of_drawn_gates_equal_the_oracle(batch):
    log_alpha = {"a": jnp.linspace(-3, 3, 7), "b": jnp.linspace(-2, 0, 4)}
    masks = {"a": jnp.array([1, 1, 0, 1, 1, 1, 1.0]), "b": jnp.ones(4)}
    counts = {name: jnp.zeros(value.shape, jnp.int32) for name, value in log_alpha.items()}
    draws = {"a": [], "b": []}
    observe = jax.jit(activity.observe)
    for step in range(40):
        key = jax.random.key(step)
        z = {name: hard_concrete.sample(key, value, batch) for name, value in log_alpha.items()}
        counts = observe(counts, z, masks)
        for name, value in z.items():
            draws[name].extend(np.atleast_2d(value))
    observations = 40 * (batch or 1)
    assert all(count.dtype == jnp.int32 for count in counts.values())
    rates = activity.rates(counts, observations)
    for name, drawn in draws.items():
        expected = oracles.activation_rates(drawn) * np.asarray(masks[name])
        np.testing.assert_array_equal(rates[name], expected)
    assert rates["b"].min() > 0 and rates["a"].max() <= 1


@settings(max_examples=200, deadline=None)
@given(masks_and_rates(), st.sampled_from([i / 20 for i in range(21)]))
def test_pruning_equals_the_oracle_and_only_ever_removes(drawn, gamma):
    mask, rate = drawn
    new = activity.keep_active({"h": rate}, {"h": mask}, gamma)["h"]
    assert new.dtype == np.float32
    np.testing.assert_array_equal(new, oracles.prune(mask, rate, gamma))
    assert new.sum() >= 1 and (new <= mask).all()
    again = activity.keep_active({"h": rate}, {"h": new}, gamma)["h"]
    np.testing.assert_array_equal(again, new)


def test_a_unit_exactly_at_the_threshold_stays():
    counts = {"h": jnp.array([2, 3, 4], jnp.int32)}  # 0.3 is not a float32: 3 / 10 must still pass
    rates = activity.rates(counts, 10)
    kept = activity.keep_active(rates, {"h": np.ones(3)}, gamma=0.3)
    np.testing.assert_array_equal(kept["h"], [0, 1, 1])


def test_gamma_zero_prunes_nothing_and_one_spares_the_best():
    masks = {"h": np.ones(3), "frozen": np.ones(2)}
    rates = {"h": [0.0, 0.7, 0.2]}
    np.testing.assert_array_equal(activity.keep_active(rates, masks, 0.0)["h"], [1, 1, 1])
    strict = activity.keep_active(rates, masks, 1.0)
    np.testing.assert_array_equal(strict["h"], [0, 1, 0])
    np.testing.assert_array_equal(strict["frozen"], [1, 1])  # no rates: not pruned


def test_bad_input_is_refused():
    ones = {"h": np.ones(2)}
    for gamma in (-0.01, 1.01, float("nan")):
        with pytest.raises(ArgumentError, match=r"^gamma is .*; allowed: a number from 0"):
            activity.keep_active({"h": [1, 1]}, ones, gamma)
    with pytest.raises(ValueError, match="'h'.*not a number"):
        activity.keep_active({"h": [np.nan, 1]}, ones, 0.5)
    with pytest.raises(ValueError, match="'h'.*shape"):
        activity.keep_active({"h": [1, 1, 1]}, ones, 0.5)
    with pytest.raises(ValueError, match="'h' has no unit left"):
        activity.keep_active({"h": [1, 1]}, {"h": np.zeros(2)}, 0.5)
    with pytest.raises(ValueError, match="0 observations"):
        activity.rates({"h": np.zeros(2)}, 0)
    with pytest.raises(ValueError, match="open 12 times in 10"):
        activity.rates({"h": np.array([12, 1])}, 10)
