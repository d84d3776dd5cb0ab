"""Compressed data: forward passes and gradients of the data exact, errors within their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import (
    bit_activations,
    calibrate,
    channel_costs,
    compressed,
    decomposition,
    pad_rows,
    selected,
    take_rows,
    zero_probes,
)

RNG = np.random.default_rng(0)
SHAPES = {
    "conv": (3, 3, 5, 6),
    "depthwise": (3, 3, 1, 12),
    "grouped": (3, 3, 6, 8),
    "dense": (8, 4),
    "out": (2, 2, 3),
}


def network(x64):
    """A convolution, a depthwise one, a grouped one, a dense layer, one that sums over two axes."""

    def apply(p, x):
        for name, groups, stride in (("conv", 1, 1), ("depthwise", 6, 2), ("grouped", 2, 1)):
            x = jnp.tanh(
                jax.lax.conv_general_dilated(
                    x, p[name], (stride, stride), "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
                )
            )  # fmt: skip
        x = jnp.tanh(x @ p["dense"])
        return jnp.einsum("bhwij,ijo->bhwo", x.reshape(*x.shape[:-1], 2, 2), p["out"])

    params = {name: RNG.normal(size=shape) * 0.4 for name, shape in SHAPES.items()}
    # Of low rank: a few patterns in space, channels and examples.
    parts = [RNG.normal(size=(size, 3)) for size in (8, 6, 6, 5)]
    x = np.einsum("ai,bi,ci,di->abcd", *parts) / 3 + 0.05 * RNG.normal(size=(8, 6, 6, 5))
    return apply, params, x


def gradients(function, params, x):
    def loss(params, x):
        out = function(params, x)
        return jnp.sum(jnp.sin(out)), out

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)


@pytest.mark.parametrize("how", ["svd", "hosvd", "fixed"])
def test_full_ranks_change_nothing(how, x64):
    apply, params, x = network(x64)
    sizes = {"conv": x.shape, "depthwise": (8, 6, 6, 6), "grouped": (8, 3, 3, 12),
             "dense": (8, 3, 3, 8), "out": (8, 3, 3, 2, 2)}  # fmt: skip
    axes = (0,) if how == "svd" else (1, 2, 3) if how == "fixed" else (0, 1, 2, 3)
    ranks = {path: {a: shape[a] for a in axes} for path, shape in sizes.items()}
    factors = {
        path: {a: np.linalg.qr(RNG.normal(size=(shape[a],) * 2))[0] for a in axes}
        for path, shape in sizes.items()
    }
    function = compressed(apply, ranks, how)
    (whole, of_x), out = gradients(apply, params, x)
    given_factors = factors if how == "fixed" else {}
    (found, of_x_too), out_too = gradients(lambda p, x: function(p, given_factors, x)[0], params, x)
    np.testing.assert_array_equal(out, out_too)
    np.testing.assert_allclose(of_x, of_x_too, rtol=1e-12, atol=1e-14)
    for path in params:
        np.testing.assert_allclose(found[path], whole[path], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["svd", "hosvd", "fixed", "asi"])
def test_gradients_are_those_of_the_decomposed_data(how, x64):
    """The oracle decomposes in NumPy and differentiates the one layer by itself."""
    apply, params, x = network(x64)
    batch = 0.9
    ranks, factors = calibrate(apply, params, x, paths=["conv", "dense"], epsilon=batch, how=how)
    function = compressed(apply, ranks, how)
    (found, of_x), _ = gradients(lambda p, x: function(p, factors, x)[0], params, x)
    (whole, of_x_exact), _ = gradients(apply, params, x)
    np.testing.assert_allclose(of_x, of_x_exact, rtol=1e-12, atol=1e-14)
    for path in set(params) - set(ranks):
        np.testing.assert_allclose(found[path], whole[path], rtol=1e-12, atol=1e-13)
    new = function(params, factors, x)[1]
    approximate = np.asarray(x, np.float64)
    for axis, rank in ranks["conv"].items():
        unfolded = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        if how == "fixed":
            u = np.asarray(factors["conv"][axis])
        elif how == "asi":
            u = np.linalg.qr(unfolded @ (unfolded.T @ np.asarray(factors["conv"][axis])))[0]
            np.testing.assert_allclose(np.abs(u.T @ new["conv"][axis]), np.eye(rank), atol=1e-6)
        else:
            u = np.linalg.svd(unfolded)[0][:, :rank]
        approximate = np.moveaxis(np.tensordot(approximate, u @ u.T, ((axis,), (0,))), -1, axis)

    def of_first(kernel, data):
        def later(p):
            y = jax.lax.conv_general_dilated(
                jax.lax.stop_gradient(data), p, (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            return y

        return later(kernel)

    cotangent = jax.grad(lambda y: jnp.sum(jnp.sin(apply_after_first(apply, params, y))))(
        of_first(params["conv"], x)
    )
    wanted = jax.vjp(lambda k: of_first(k, approximate), params["conv"])[1](cotangent)[0]
    np.testing.assert_allclose(found["conv"], wanted, rtol=1e-5, atol=1e-6)


def apply_after_first(apply, params, y):
    """The network from the first convolution's result on: by a kernel that does nothing."""
    same = np.zeros((3, 3, 6, 6))
    same[1, 1] = np.eye(6)
    return apply(params | {"conv": same}, y)


@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=4),
    st.sampled_from([0.4, 0.8, 0.9, 0.99, 1.0]),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_errors_of_hosvd_are_within_the_bound(shape, epsilon, seed):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=shape) * rng.exponential(size=shape) ** 3
    ranks = {
        axis: decomposition.rank_for(decomposition.spectrum(array, axis), epsilon)
        for axis in range(array.ndim)
    }
    found = array
    for axis, rank in ranks.items():
        u = np.linalg.svd(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1))[0][:, :rank]
        found = np.moveaxis(np.tensordot(found, u @ u.T, ((axis,), (0,))), -1, axis)
    lost, all_of_it = np.sum((array - found) ** 2), np.sum(array**2)
    assert lost <= array.ndim * (1 - epsilon) * all_of_it + 1e-9 * all_of_it
    assert all(1 <= rank <= array.shape[axis] for axis, rank in ranks.items())


def test_cores_and_factors_stand_for_the_array(x64):
    array = RNG.normal(size=(4, 5, 6))
    factors = {axis: decomposition.leading(array, axis, array.shape[axis]) for axis in range(3)}
    again = decomposition.expanded(decomposition.core(array, factors), factors)
    np.testing.assert_allclose(again, array, atol=1e-12)
    assert decomposition.stored_numbers((4, 5, 6), {0: 2, 2: 3}) == 2 * 5 * 3 + 4 * 2 + 6 * 3


def test_a_warm_subspace_approaches_hosvd(x64):
    """Three steps of one subspace iteration each, on other data of the same kind."""
    patterns = RNG.normal(size=(12, 4))

    def data():
        return RNG.normal(size=(16, 4)) @ patterns.T + 0.1 * RNG.normal(size=(16, 12))

    def lost(array, u):
        return 1 - np.sum((u.T @ array.T) ** 2) / np.sum(array**2)

    factor = decomposition.first_factors(jax.random.key(0), (16, 12), {1: 4})[1]
    for _ in range(3):
        array = data()
        factor = decomposition.iterated(jnp.asarray(array), 1, factor)
    best = decomposition.leading(jnp.asarray(array), 1, 4)
    assert lost(array, np.asarray(factor)) < lost(array, np.asarray(best)) + 0.1


@pytest.mark.parametrize("path", ["conv", "depthwise", "grouped", "dense", "out"])
def test_chosen_rows_are_compressed_in_any_order(path, x64):
    """At full rank of all but examples: the gradient is that of rows of the decomposed data."""
    apply, params, x = network(x64)
    costs = channel_costs(apply, params, x, prefix="")
    rows = pad_rows({path: [0, costs[path].channels - 1]}, costs, {path: 3})
    ranks, _ = calibrate(apply, params, x, paths=[path], epsilon=0.9999, how="hosvd", rows=rows)
    probes = zero_probes(params, rows)
    one = selected(compressed(apply, ranks), rows)
    two = compressed(selected(bit_activations(apply), rows), ranks)
    (whole, _), _ = gradients(apply, params, x)
    wanted = take_rows(whole, rows)[path]
    for form in (
        lambda q: one(params, rows, q, {}, x)[0],
        lambda q: two(params, {}, rows, q, x)[0],
    ):
        found = jax.grad(lambda q, form=form: jnp.sum(jnp.sin(form(q))))(probes)[path]
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < 0.05
        assert not jnp.take(found, 2, axis=costs[path].layout.at).any()


def test_norms_of_examples_see_what_is_kept(x64):
    apply, params, x = network(x64)
    everything = {"dense": {0: 8}}
    function = probed(compressed(apply, everything), "dense")

    def loss(probe):
        return jnp.sum(function(params, probe, {}, x)[0])

    exact = jax.grad(lambda probe: jnp.sum(probed(apply, "dense")(params, probe, x)))(jnp.zeros(8))
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(8)), exact, rtol=1e-9)


def test_errors_say_what_is_allowed(x64):
    apply, params, x = network(x64)

    def call(ranks, how="hosvd", factors=None):
        return compressed(apply, ranks, how)(params, factors or {}, x)

    looped = lambda p, x: jax.lax.fori_loop(0, 2, lambda _, y: jnp.tanh(y @ p["w"]), x)  # noqa: E731
    square = {"w": np.eye(4)}
    for problem, why in (
        (
            lambda: call({"conv": {3: 9}}),
            "the rank of axis 3 of the data of 'conv' is 9.*from 1 to 5",
        ),
        (lambda: call({"conv": {3: 0}}), "from 1 to 5"),
        (lambda: call({"conv": {4: 1}}), "no axis 4; allowed: axes from 0 to 3"),
        (lambda: call({"con": {3: 1}}), "no kernel 'con'; the nearest are 'conv'"),
        (lambda: call({"conv": {3: 1}}, "svd"), "decomposes axis 0 alone"),
        (lambda: call({"conv": {3: 1}}, "pca"), "how is 'pca'; allowed: 'svd'"),
        (lambda: call({"conv": {3: 1}}, "asi"), "needs factors of 'conv' to start from"),
        (
            lambda: call({"conv": {3: 1}}, "asi", {"conv": {3: np.ones((5, 2))}}),
            "calibrate anew",
        ),
        (
            lambda: compressed(looped, {"w": {1: 2}}, "asi")(
                square, {"w": {1: np.ones((4, 2))}}, np.ones((3, 4))
            ),
            "is read inside '.*', so its factors cannot be carried",
        ),
        (lambda: calibrate(apply, params, x, paths=["conv"], epsilon=0), "epsilon is 0; allowed"),
    ):
        with pytest.raises(UserError, match=why) as error:
            problem()
        assert "\n" not in str(error.value)


def test_random_projections_give_the_gradient_in_the_mean():
    """Of 400 matrices, each of which is off by far."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(keys[0], (16, 3))}
    x = jax.random.normal(keys[1], (12, 16))

    def apply(params, x):
        return jnp.square(x @ params["w"]).sum()

    ranks, _ = calibrate(apply, params, x, paths=["w"], epsilon=0.5, how="random")
    assert ranks == {"w": {1: 8}}
    small = compressed(apply, ranks, how="random")

    def gradient(key):
        factors = {"w": {1: jax.random.normal(key, (16, 8)) / 8**0.5}}
        return jax.grad(lambda p: small(p, factors, x)[0])(params)["w"]

    exact = jax.grad(apply)(params, x)["w"]
    every = jax.jit(jax.vmap(gradient))(jax.random.split(keys[2], 400))
    off = [
        float(jnp.linalg.norm(g - exact) / jnp.linalg.norm(exact))
        for g in (every[0], every.mean(0))
    ]
    assert off[0] > 0.5 and off[1] < 0.15
