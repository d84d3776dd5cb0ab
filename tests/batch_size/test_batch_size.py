"""The batch rules against the oracle, their invariants, and the grid of compiled sizes."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynhp_jax.batch_size.rules import CABS, Doubling, DynHP, Fixed, Worth, calibrate_alpha
from dynhp_jax.batch_size.size_grid import on_grid
from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.memory.paper import PaperMeter

sizes = st.integers(1, 5000)
variances = st.floats(0, 1e6)
losses = st.floats(1e-6, 1e4)
alphas = st.floats(0, 1)


@pytest.mark.filterwarnings("ignore:the memory budget")
@given(sizes, variances, losses, alphas, st.integers(0, 300_000), st.integers(1, 4000))
def test_dynhp_equals_the_oracle_inside_a_byte_budget(batch, s, f, alpha, parameters, images):
    meter = PaperMeter(example_bytes=3136)
    budget = 4 * parameters + 3136 * images + 17
    new = DynHP(alpha).update(batch, s, f, meter.room(budget, parameters))
    assert new == oracles.dynhp_batch(batch, s, f, alpha, budget, 4 * parameters, 3136)


@pytest.mark.filterwarnings("ignore:the memory budget")
@given(st.sampled_from([Fixed(), DynHP(0.9), DynHP(0.0), CABS(0.01)]), sizes, variances, losses)
def test_no_rule_ever_leaves_the_budget(rule, batch, s, f):
    for room in (1, 15, 600, 10**7):
        assert 1 <= rule.update(batch, s, f, room) <= room


@given(sizes, variances, losses, alphas, st.integers(0, 5000))
def test_dynhp_never_shrinks_within_the_budget(batch, s, f, alpha, spare):
    assert batch <= DynHP(alpha).update(batch, s, f, batch + spare) <= batch + spare


@given(sizes, variances, losses, alphas, alphas)
def test_a_larger_alpha_never_grows_faster(batch, s, f, one, other):
    slow, fast = DynHP(max(one, other)), DynHP(min(one, other))
    assert slow.update(batch, s, f, 10**7) <= fast.update(batch, s, f, 10**7)


@pytest.mark.parametrize(("alpha", "ratio"), [(0.971, 34.49), (0.975, 40.01), (0.979, 47.63)])
def test_growth_starts_where_the_ratio_passes_one_over_one_minus_alpha(alpha, ratio):
    assert DynHP(alpha).update(16, 2 * ratio, 2.0, 10**6) == 17
    assert DynHP(alpha).update(16, 2 * ratio - 0.1, 2.0, 10**6) == 16


def test_zero_loss_is_an_infinite_ratio_unless_nothing_varies():
    assert DynHP(0.9).update(16, 5.0, 0.0, 300) == 300
    assert DynHP(0.9).update(16, 0.0, 0.0, 300) == 16
    assert DynHP(1.0).update(16, 5.0, 0.0, 300) == 16
    assert DynHP(0.9).update(16, 1e300, 1e-300, 300) == 300
    assert CABS(0.1).update(16, 5.0, 0.0, 300) == 300


def test_device_scalars_are_computed_in_double_precision():
    s, f = np.float32(1 / 3), np.float32(1 / 3)
    assert DynHP(0.0).update(np.int32(7), s, f, np.int64(100)) == 8
    big = DynHP(0.5).update(1, np.float32(2**25 + 4), np.float32(1), 10**9)
    assert big == 1 + (2**25 + 4) // 2 and type(big) is int


@given(variances, losses, st.floats(1e-4, 1))
def test_cabs_equals_the_oracle(s, f, eta):
    # Half-way between two sizes the rounding is that of the order of multiplying and dividing.
    assume(abs(eta * s / f % 1 - 0.5) > 1e-9)
    expected = oracles.cabs_batch(s, f, eta, 16, 2048)
    assert CABS(eta).update(100, s, f, 4000) == expected


def test_a_shrunk_budget_shrinks_the_batch_with_a_warning():
    for rule in (Fixed(), DynHP(0.9), CABS(0.1), Doubling()):
        with pytest.warns(UserWarning, match="room for 90 examples; the batch shrinks from 100"):
            assert rule.update(100, 1e5, 1.0, 90) == 90


def test_doubling_stays_where_twice_as_many_have_no_room():
    sizes = [16]
    for _ in range(8):
        sizes.append(Doubling().update(sizes[-1], 1.0, 1.0, 300))
    assert sizes == [16, 32, 64, 128, 256, 256, 256, 256, 256]


@given(
    st.integers(1, 300), st.integers(0, 4000), st.floats(0, 1e4), st.floats(0, 1e4),
    st.floats(0.5, 2000), st.floats(1, 500),
)  # fmt: skip
def test_worth_is_the_best_octave_by_hand(batch, more, s, squares, held, overhead):
    """In NumPy's float64, of progress / (seconds x bytes) with the noise scale B written out."""
    room = batch + more
    found = Worth(overhead).update(batch, s, 1.0, room, squared_norm=squares, held=held)
    sizes = batch * 2.0 ** np.arange(int(np.log2(room / batch) + 1e-12) + 1)
    trace = s * batch / max(batch - 1, 1)
    signal = max(0.0, squares - trace / batch)
    with np.errstate(divide="ignore", invalid="ignore"):
        progress = np.where(signal * sizes + trace > 0, sizes / (signal * sizes + trace), 0.0)
    value = progress / ((overhead + sizes) * (held + sizes))
    assert found in sizes and found <= room
    assert value[list(sizes).index(found)] >= value.max() * (1 - 1e-12)
    if s == 0:
        assert found == batch, "without noise one example is as good as all"


def test_worth_comes_to_the_geometric_mean_where_gradients_are_noise_alone():
    """d/db of b / ((overhead + b) (held + b)) is 0 at sqrt(overhead held)."""
    assert Worth(32).update(16, 1e6, 1.0, 10**6, squared_norm=0.0, held=128) == 64
    assert Worth(32).update(1, 1e6, 1.0, 10**6, squared_norm=0.0, held=8) == 16


def test_fixed_stays():
    assert Fixed().update(100, 1e5, 1.0, 4000) == 100


@pytest.mark.parametrize("rule", [Fixed(), DynHP(0.9), CABS(0.1), Doubling()])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_numbers_that_are_none_are_refused(rule, bad):
    with pytest.raises(ValueError, match=f"grad_variance is {bad}"):
        rule.update(16, bad, 1.0, 100)
    with pytest.raises(ValueError, match=f"loss is {bad}"):
        rule.update(16, 1.0, bad, 100)
    with pytest.raises(ValueError, match="batch is 0"):
        rule.update(0, 1.0, 1.0, 100)
    with pytest.raises(ValueError, match="room is 0"):
        rule.update(16, 1.0, 1.0, 0)


def test_controllers_are_validated_when_made():
    for alpha in (-0.01, 1.01, math.nan):
        with pytest.raises(ArgumentError, match=r"^alpha is .*; allowed: a number from"):
            DynHP(alpha)
    for eta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ArgumentError, match="^eta is"):
            CABS(eta)
    with pytest.raises(ArgumentError, match="^overhead is"):
        Worth(0.0)
    with pytest.raises(ArgumentError, match="^low is"):
        CABS(0.1, low=100, high=10)


# The grid


@settings(max_examples=300)
@given(st.integers(1, 100_000), st.floats(1.02, 4))
def test_grid_value_is_below_close_and_itself_on_the_grid(batch, ratio):
    value = on_grid(batch, ratio)
    assert 1 <= value <= batch
    assert on_grid(value, ratio) == value
    assert value % 8 == 0 or value < 16
    # No further below than one step (at most an octave), plus what rounding may move a size.
    assert batch < value * min(ratio, 2) + (8 if batch >= 16 else 1)


@given(st.integers(1, 20_000), st.integers(0, 5000), st.floats(1.02, 4))
def test_grid_is_monotone(batch, more, ratio):
    assert on_grid(batch, ratio) <= on_grid(batch + more, ratio)


@pytest.mark.parametrize("ratio", [1.1, 1.25, 1.5, 2.0, 3.0])
def test_number_of_compilations_is_bounded_and_powers_of_two_are_kept(ratio):
    used = {on_grid(batch, ratio) for batch in range(16, 1025)}
    octaves = 6
    assert len(used) <= octaves * max(1, math.ceil(math.log(2) / math.log(ratio))) + 1
    assert {16, 32, 64, 128, 256, 512, 1024} <= used


def test_grid_ratio_one_keeps_every_size_and_nonsense_is_refused():
    assert [on_grid(b, 1.0) for b in (1, 17, 333)] == [1, 17, 333]
    for ratio in (0.9, math.nan, math.inf):
        with pytest.raises(ArgumentError, match="ratio is"):
            on_grid(16, ratio)
    with pytest.raises(ValueError, match="batch is 0"):
        on_grid(0, 1.25)


# Calibration


@settings(max_examples=200)
@given(st.lists(st.floats(0, 2000), min_size=1, max_size=30), st.integers(17, 2000))
def test_calibrated_alpha_reaches_the_target_and_the_next_one_does_not(ratios, target):
    assume(16 + sum(math.floor(r) for r in ratios) >= target)
    alpha = calibrate_alpha(ratios, 16, target)

    def run(alpha):
        batch = 16
        for ratio in ratios:
            batch = DynHP(alpha).update(batch, ratio, 1.0, 10**9)
        return batch

    assert run(alpha) >= target
    assert alpha == 1 or run((round(alpha * 1e6) + 1) / 1e6) < target


def test_calibration_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="non-finite"):
        calibrate_alpha([1.0, math.nan], 16, 20)
    with pytest.raises(ValueError, match="above start"):
        calibrate_alpha([1.0], 16, 16)
    with pytest.raises(ValueError, match="to 18 at most"):
        calibrate_alpha([1.9, 1.2], 16, 100)
