"""Hard-concrete gates and their penalty, against NumPy float64 and the distribution's own CDF."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.gates import hard_concrete, penalty
from dynhp_jax.gates.penalty import squares_of
from dynhp_jax.structure.find import find_groups

LOG_ALPHAS = np.linspace(-4.6, 4.6, 47, dtype=np.float32)


def test_evaluation_gate_is_zero_up_to_minus_2_3979_where_a_third_is_still_open():
    edge = float(np.log((0 - -0.1) / (1.1 - 0)))  # sigmoid(edge) x 1.2 - 0.1 = 0
    assert edge == pytest.approx(-2.3979, abs=5e-5)
    assert hard_concrete.mean(jnp.float32(edge - 1e-5)) == 0
    assert hard_concrete.mean(jnp.float32(edge + 1e-4)) > 0
    assert hard_concrete.prob_open(jnp.float32(edge)) == pytest.approx(0.310, abs=5e-4)


def test_a_gate_open_half_of_the_time_still_counts_at_evaluation():
    assert hard_concrete.prob_open(jnp.float32(-1.5986)) == pytest.approx(0.5, abs=2e-5)
    assert hard_concrete.mean(jnp.float32(-1.5986)) == pytest.approx(0.102, abs=5e-4)


@pytest.mark.parametrize(("open_rate", "probability"), [(0.8, 0.952), (0.5, 0.832)])
def test_init_has_the_papers_spread_and_open_probability(open_rate, probability):
    log_alpha = hard_concrete.init(jax.random.key(0), 20_000, open_rate)
    assert log_alpha.dtype == jnp.float32
    centre = np.log(open_rate / (1 - open_rate))
    assert stats.kstest((np.asarray(log_alpha) - centre) / 0.01, "norm").pvalue > 1e-3
    assert np.mean(hard_concrete.prob_open(log_alpha)) == pytest.approx(probability, abs=5e-4)


def test_same_uniforms_give_the_oracles_gates():
    u = hard_concrete.uniform(jax.random.key(1), (500, len(LOG_ALPHAS)))
    ours = hard_concrete.transform(u, jnp.asarray(LOG_ALPHAS))
    np.testing.assert_allclose(ours, oracles.gate(u, LOG_ALPHAS), atol=2e-6)
    assert np.mean(ours == 0) > 0.1 and np.mean(ours == 1) > 0.1


def test_mean_and_probability_equal_the_oracles():
    np.testing.assert_allclose(
        hard_concrete.mean(LOG_ALPHAS), oracles.mean_gate(LOG_ALPHAS), atol=1e-6
    )
    np.testing.assert_allclose(
        hard_concrete.prob_open(LOG_ALPHAS), oracles.prob_open(LOG_ALPHAS), atol=1e-6
    )


@pytest.mark.parametrize("log_alpha", [-3.0, -1.5986, 0.0, 1.4, 4.0])
def test_draws_follow_the_distribution(log_alpha):
    draws = 40_000
    z = np.asarray(
        hard_concrete.sample(jax.random.key(7), jnp.full(8, log_alpha), draws // 8)
    ).ravel()
    # The masses at exactly 0 and 1, then the continuous part in between by Kolmogorov-Smirnov.
    below, above = oracles.gate_cdf(0.0, log_alpha), oracles.gate_cdf(1.0, log_alpha)
    assert stats.binomtest(int(np.sum(z == 0)), draws, below).pvalue > 1e-3
    assert stats.binomtest(int(np.sum(z == 1)), draws, 1 - above).pvalue > 1e-3
    inside = z[(z > 0) & (z < 1)]
    conditional = (oracles.gate_cdf(inside, log_alpha) - below) / (above - below)
    assert stats.kstest(conditional, "uniform").pvalue > 1e-3
    assert np.mean(z > 0) == pytest.approx(float(hard_concrete.prob_open(log_alpha)), abs=0.01)


def test_uniforms_are_uniform_and_never_touch_the_ends():
    u = np.asarray(hard_concrete.uniform(jax.random.key(3), (100_000,)), np.float64)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    # The two extreme cells, which 100,000 draws do not reach.
    ends = hard_concrete._uniform_of_bits(
        jnp.array([0, 2**32 - 1], jnp.uint32), hard_concrete.HARD_CONCRETE
    )
    assert 0 < ends[0] < 1.1e-6 and 1 - 1.2e-6 < ends[1] < 1
    assert hard_concrete.transform(ends[:, None], jnp.zeros(1)).ravel().tolist() == [0, 1]


def lattice(keys=40, rows=128, columns=64):
    """Uniforms as training draws them, f64[keys, rows, columns]."""
    stream = jax.random.key(11)
    draw = jax.vmap(lambda k: hard_concrete.uniform(jax.random.fold_in(stream, k), (rows, columns)))
    return np.asarray(draw(jnp.arange(keys)), np.float64)


def test_cells_pairs_and_triples_are_equally_likely():
    u = lattice()
    for axis in (0, 1, 2):  # from step to step, example to example, unit to unit
        for together in (1, 2, 3):
            cells = (8 * np.moveaxis(u, axis, -1)).astype(int)  # of an eighth each
            cells = cells[..., : cells.shape[-1] // together * together].reshape(-1, together)
            counts = np.bincount(cells @ 8 ** np.arange(together), minlength=8**together)
            assert stats.chisquare(counts).pvalue > 1e-4


def test_draws_are_uncorrelated_over_steps_examples_and_units():
    u = lattice()
    centred = (u - 0.5) * np.sqrt(12)
    for axis in (0, 1, 2):
        for lag in (1, 2, 4, 8, 16, 32):
            a = np.take(centred, range(u.shape[axis] - lag), axis)
            b = np.take(centred, range(lag, u.shape[axis]), axis)
            # Products of independent numbers of variance 1 have mean 0 and variance 1.
            assert abs(np.mean(a * b)) * np.sqrt(a.size) < 4.5
    means = [centred.mean((1, 2)), centred.mean((0, 2)), centred.mean((0, 1))]
    for mean in means:
        z = mean * np.sqrt(u.size / mean.size)
        assert stats.kstest(z, "norm").pvalue > 1e-4


def test_each_bit_of_a_word_is_a_fair_coin_and_each_input_bit_moves_it():
    words = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    for bit in range(32):
        moved = np.asarray(
            hard_concrete._mixed(words) ^ hard_concrete._mixed(words ^ np.uint32(1 << bit))
        )
        flips = (moved[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        assert np.all(np.abs(flips.mean(0) - 0.5) < 0.1)
    assert len(np.unique(hard_concrete._mixed(np.arange(100_000, dtype=np.uint32)))) == 100_000


def test_no_two_draws_of_many_steps_are_the_same():
    """Words of one key never repeat; those of other keys do as often as chance has it."""
    u = lattice(keys=4, rows=256, columns=256).reshape(4, -1)
    cells = np.round(u * 2**23)
    for one in range(4):
        # 65,536 of 2^23 cells by chance: about 256 pairs in the same.
        assert 65_536 - len(np.unique(cells[one])) < 400
        for other in range(one):
            assert np.mean(cells[one] == cells[other]) < 1e-3


def test_one_draw_per_batch_or_per_example():
    log_alpha = jnp.asarray(LOG_ALPHAS)
    key = jax.random.key(0)
    assert hard_concrete.sample(key, log_alpha).shape == (47,)
    sizes = np.array([3, 47])  # NumPy's integers are wider than the words that are mixed
    np.testing.assert_array_equal(
        hard_concrete.uniform(key, (*sizes,)), hard_concrete.uniform(key, (3, 47))
    )
    per_example = hard_concrete.sample(key, log_alpha, batch=6)
    assert per_example.shape == (6, 47)
    assert len(np.unique(np.asarray(per_example), axis=0)) == 6
    np.testing.assert_array_equal(per_example, hard_concrete.sample(key, log_alpha, batch=6))
    assert not np.array_equal(
        hard_concrete.sample(key, log_alpha), hard_concrete.sample(jax.random.key(1), log_alpha)
    )


@jax.jit
def slope(u, log_alpha):
    return jax.grad(lambda a: hard_concrete.transform(u, a))(log_alpha)


@settings(max_examples=200, deadline=None)
@given(st.floats(2e-6, 1 - 2e-6), st.floats(-4.6, 4.6))
def test_gradient_equals_finite_differences_in_float64(u, log_alpha):
    u32, a32 = np.float32(u), np.float32(log_alpha)
    step = 1e-5
    around = oracles.gate(u32, np.float64(a32) + np.array([-step, 0, step]))
    if np.any(around == 0) != np.all(around == 0) or np.any(around == 1) != np.all(around == 1):
        return  # the kink itself has no derivative
    derivative = slope(u32, a32)
    assert derivative == pytest.approx((around[2] - around[0]) / (2 * step), abs=2e-5)


@pytest.mark.parametrize("log_alpha", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_parameters_neither_overflow_nor_lose_their_gradient_to_nan(log_alpha):
    def total(a):
        z = hard_concrete.sample(jax.random.key(0), a, 64)
        return jnp.sum(z) + jnp.sum(hard_concrete.mean(a)) + jnp.sum(hard_concrete.prob_open(a))

    value, gradient = jax.value_and_grad(total)(jnp.full(3, log_alpha))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value == pytest.approx(3 * 66 if log_alpha > 0 else 0, abs=1e-3)


def test_dtype_follows_log_alpha():
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            z = hard_concrete.sample(jax.random.key(0), jnp.zeros(4, dtype), 3)
            assert z.dtype == dtype
            assert hard_concrete.mean(jnp.zeros(4, dtype)).dtype == dtype


def test_clamp_keeps_within_log_hundredth_and_log_hundred():
    np.testing.assert_allclose(
        hard_concrete.clamp(jnp.array([-9.0, 0.5, 9.0])),
        [np.log(0.01), 0.5, np.log(100)],
        rtol=1e-6,
    )


# Penalty


def network(seed=0, widths=(6, 5, 4, 3)):
    """A small multilayer perceptron with some dead units, as plain arrays."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    weights = [rng.normal(size=shape) for shape in shapes]
    biases = [rng.normal(size=width) for width in widths[1:]]
    log_alpha = [rng.uniform(-4, 4, size=width) for width in widths[:-1]]
    masks = [(rng.random(width) < 0.7).astype(float) for width in widths[:-1]]
    for mask in masks:
        mask[0] = 1.0
    return weights, biases, log_alpha, masks


def as_groups(values):
    return {f"group_{i}": jnp.asarray(v, jnp.float32) for i, v in enumerate(values)}


def readers(masks, outputs):
    """Surviving weights that read each unit of a multilayer perceptron, and their 0/1 matrices."""
    after = [*masks[1:], np.ones(outputs)]
    return [np.outer(mask, reader) for mask, reader in zip(masks, after, strict=True)]


@pytest.mark.parametrize("convention", penalty.CONVENTIONS)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_penalty_equals_the_oracles_sum_over_single_weights(convention, l2):
    weights, biases, log_alpha, masks = network()
    alive = readers(masks, outputs=3)
    counts = [a.sum(1) for a in alive]
    if convention == "parameters":  # and what makes the unit, with its bias
        made = [
            np.zeros_like(masks[0]),
            *(a.sum(0) + m for a, m in zip(alive[:-1], masks[1:], strict=True)),
        ]
        counts = [reading + making for reading, making in zip(counts, made, strict=True)]
    ours = penalty.gate_penalty(
        as_groups(log_alpha),
        as_groups(counts),
        as_groups(masks),
        lam=0.07,
        num_examples=50,
        convention=convention,
        l2=l2,
        weight_squares=as_groups([(a * w**2).sum(1) for a, w in zip(alive, weights, strict=True)]),
        bias_squares=sum((b**2).sum() for b in biases),
    )
    expected = oracles.penalty(log_alpha, weights, masks, 0.07, 50, convention, l2, biases)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_l2_leaves_out_no_row_of_a_kernel_that_reads_more_than_gated_units():
    """'c' reads four units that are gated and five features that are not."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "bias": (4,), "skip": (3, 5), "c": (9, 2)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def apply(variables, x):
        p = variables["params"]
        both = [jnp.tanh(x @ p["a"] + p["bias"]), jnp.tanh(x @ p["skip"])]
        return jnp.concatenate(both, -1) @ p["c"]

    groups = find_groups(apply, {"params": params}, jnp.ones((2, 3)))
    squares = {name: value**2 for name, value in params.items()}
    alive = np.array([1.0, 0, 1, 1])
    read, other = squares_of(groups.select(["a"]), params, {"a": alive})
    np.testing.assert_allclose(read["a"], alive * squares["c"][:4].sum(1), rtol=1e-6)
    expected = (squares["a"] * alive).sum() + (squares["bias"] * alive).sum()
    expected += squares["skip"].sum() + squares["c"][4:].sum()
    assert float(other) == pytest.approx(expected, rel=1e-6)
    read, other = squares_of(groups.select(["a", "skip"]), params, {"a": alive, "skip": np.ones(5)})
    np.testing.assert_allclose(read["skip"], squares["c"][4:].sum(1), rtol=1e-6)
    assert float(other) == pytest.approx(expected - squares["c"][4:].sum(), rel=1e-6)


def test_the_three_lambdas_are_worth_what_the_docstring_says():
    """784-300-100-10, all gates nearly always open: 266,200 weights, 1,184 gates."""
    sizes, fan_outs = (784, 300, 100), (300, 100, 10)
    log_alpha = as_groups([np.full(n, 20.0) for n in sizes])
    fan_out = as_groups([np.full(n, f) for n, f in zip(sizes, fan_outs, strict=True)])
    masks = as_groups([np.ones(n) for n in sizes])

    def price(convention):
        return float(penalty.gate_penalty(log_alpha, fan_out, masks, 0.01, 60_000, convention))

    assert price("literal") == pytest.approx(2662, rel=1e-4)
    assert price("amlab") == pytest.approx(2662 / 60_000, rel=1e-4)
    assert price("per_gate") == pytest.approx(11.84, rel=1e-4)


def test_gradient_of_the_penalty_reaches_weights_only_through_l2():
    weights, _, log_alpha, masks = network()
    alive = readers(masks, outputs=3)

    def price(kernels, parameters, l2):
        squares = {f"group_{i}": (alive[i] * k**2).sum(1) for i, k in enumerate(kernels)}
        fan_out = as_groups([a.sum(1) for a in alive])
        return penalty.gate_penalty(
            parameters, fan_out, as_groups(masks), 0.1, 10, "amlab", l2, weight_squares=squares
        )

    kernels = [jnp.asarray(w, jnp.float32) for w in weights]
    plain, by_gate = jax.grad(price, argnums=(0, 1))(kernels, as_groups(log_alpha), 0.0)
    assert all(not np.any(g) for g in plain)
    for i, mask in enumerate(masks):  # dead gates get nothing, living ones are pushed shut
        gradient = np.asarray(by_gate[f"group_{i}"])
        np.testing.assert_array_equal(gradient[mask == 0], 0)
        assert (gradient[mask == 1] > 0).all()
    with_l2 = jax.grad(price)(kernels, as_groups(log_alpha), 0.5)
    expected = alive[0] * oracles.prob_open(log_alpha[0])[:, None] * weights[0] * 0.5 / 10
    np.testing.assert_allclose(with_l2[0], expected, rtol=1e-4, atol=1e-7)


def test_penalty_refuses_what_it_cannot_mean():
    one = {"h": jnp.zeros(2)}
    with pytest.raises(ArgumentError, match="^convention is 'mean'; allowed: 'amlab'"):
        penalty.gate_penalty(one, one, one, 0.1, 10, "mean")
    for lam in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="^lam is"):
            penalty.gate_penalty(one, one, one, lam, 10)
    with pytest.raises(ArgumentError, match="^l2 is"):
        penalty.gate_penalty(one, one, one, 0.1, 10, l2=-1.0)
    with pytest.raises(ValueError, match="num_examples"):
        penalty.gate_penalty(one, one, one, 0.1, 0)
    with pytest.raises(ValueError, match="weight_squares"):
        penalty.gate_penalty(one, one, one, 0.1, 10, l2=0.1)


def test_constants_that_make_no_hard_concrete_are_refused():
    for arguments in ({"temperature": 0.0}, {"low": 0.1}, {"high": 1.0}, {"eps": 0.5}):
        with pytest.raises(ValueError, match="must"):
            hard_concrete.HardConcrete(**arguments)
    for open_rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="open_rate"):
            hard_concrete.init(jax.random.key(0), 3, open_rate)


def test_draws_of_a_unit_do_not_depend_on_which_others_are_left():
    key, log_alpha = jax.random.key(5), jnp.linspace(-2, 2, 30)
    kept = np.array([0, 3, 4, 17, 29])
    sample = jax.jit(hard_concrete.sample, static_argnames=("batch", "of"))
    for batch in (None, 6):
        whole = sample(key, log_alpha, batch=batch)
        left = sample(key, log_alpha[kept], batch=batch, units=jnp.asarray(kept), of=30)
        np.testing.assert_array_equal(left, whole[..., kept])
        # Sizes that NumPy has counted are signed words, which shift in another way.
        counted = hard_concrete.sample(key, log_alpha[kept], batch, units=kept, of=np.int64(30))
        np.testing.assert_allclose(counted, left, atol=1e-6)


def test_positions_may_be_of_any_integers_and_gates_of_none():
    words = np.random.default_rng(0).integers(-(2**31), 2**31, 500, np.int32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        hard_concrete.uniform(key, (500,), positions=jnp.asarray(words)),
        hard_concrete.uniform(key, (500,), positions=jnp.asarray(words.view(np.uint32))),
    )
    with pytest.raises(ValueError, match="log_alpha is int32; allowed: floating point"):
        hard_concrete.sample(key, jnp.arange(3))
