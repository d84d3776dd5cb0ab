"""What does not couple is not tied: constants, and arrays that are repeated along an axis.

Two layers share a table; an oracle in NumPy says what the model computes with some of the units of
one of them at zero, and with all of those of the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

B, T, N = 2, 4, 6
RNG = np.random.default_rng(0)
PARAMS = {
    "a": RNG.normal(size=(3, N)),
    "b": RNG.normal(size=(N, 3)),
    "c": RNG.normal(size=(3, N)),
    "d": RNG.normal(size=(N, 2)),
    "e": RNG.normal(size=(N, 3)),
    "r": RNG.normal(size=T),
}
X = RNG.normal(size=(B, T, 3))
KEEP = np.array([0, 2, 5])
TABLES = {}


def table(*leaves):
    """Registers (table(p, x) -> f64[B, T, N] or smaller) for both layers: JAX and NumPy at once."""

    def register(function):
        TABLES[function.__name__] = (function, leaves)
        return function

    return register


@table()
def linspace(np, p, x):
    return np.linspace(1.0, 2.0, N)


@table()
def rotary(np, p, x):
    angle = np.arange(T)[:, None] * 10.0 ** -np.arange(0.0, N)
    return np.concatenate([np.sin(angle)[:, ::2], np.cos(angle)[:, ::2]], -1)


@table()
def running(np, p, x):
    return np.cumsum(np.sort(np.sin(np.arange(1.0 * N))))


@table()
def closed_over(np, p, x):
    return np.asarray(WEIGHTS)


WEIGHTS = RNG.normal(size=(T, N))


@table()
def of_the_shape_of_the_batch(np, p, x):
    return np.ones((len(x), T, N)) * np.arange(1.0, len(x) + 1)[:, None, None]


@table()
def large(np, p, x):
    """More entries than are kept as numbers while the model is analysed."""
    return np.sin(np.arange(3.0 * (1 << 16))).reshape(N, -1).sum(1)


@table()
def mask_of_the_inputs(np, p, x):
    return np.broadcast_to(np.where(x[..., :1] > 0, 1.0, 0.25), (B, T, N))


@table("r")
def bias_that_is_repeated(np, p, x):
    return np.broadcast_to(p["r"][:, None], (T, N))


def model(function, p, x):
    shared = function(jnp, p, x)
    h = jnp.tanh(jnp.sin(x @ p["a"]) * shared) @ p["b"]
    return (jnp.cos(h @ p["c"]) + shared) @ p["d"]


def by_hand(function, p, x, alive):
    shared = function(np, p, x)
    h = np.tanh(np.sin(x @ p["a"]) * shared) * alive @ p["b"]
    return (np.cos(h @ p["c"]) + shared) @ p["d"]


def group_of(groups, path, axis):
    (name,) = [g.name for g, _ in groups.on_axis(path, axis) if g.name in groups.prunable]
    return name


def check(apply, expected, params=PARAMS, x=X, of=("a", 1), keep=KEEP):
    """The units on one axis are cut, those of all other groups stay; gates agree."""
    groups = find_groups(apply, params, x)
    assert not groups.unknown
    name = group_of(groups, *of)
    keeps = {name: keep}
    small = cut(params, groups, keeps)
    out = jax.jit(resized(apply, params, groups, keeps))(small, x)
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
    gates = {name: np.isin(np.arange(groups[name].size), keep) * 1.0}
    np.testing.assert_allclose(gated(apply, groups)(params, gates, x), expected, rtol=1e-10)
    return groups, small


@pytest.mark.parametrize("name", TABLES)
def test_a_table_for_two_layers_ties_none_of_their_units(x64, name):
    function, leaves = TABLES[name]

    def apply(p, x):
        return model(function, p, x)

    alive = np.isin(np.arange(N), KEEP)
    groups, small = check(apply, by_hand(function, PARAMS, X, alive))
    assert small["a"].shape == (3, 3) and small["b"].shape == (3, 3)
    assert small["c"].shape == (3, N) and small["d"].shape == (N, 2)
    assert not [m for g in groups.values() for m in g.members if m.path in leaves]


# How a constant gets to where it is read


def in_a_scan(function, p, x):
    shared = function(jnp, p, x)

    def layer(y, w):
        y = jnp.tanh(jnp.sin(y @ p["a"]) * shared) @ p["b"]
        return (jnp.cos(y @ p["c"]) + shared) @ p["e"] * w, None

    return lax.scan(layer, x, np.ones(2))[0] @ p["c"] @ p["d"]


def carried_by_a_scan(function, p, x):
    """A constant goes from step to step, and is another one each time."""

    def layer(carry, _):
        y, shared = carry
        y = jnp.tanh(jnp.sin(y @ p["a"]) * shared) @ p["b"]
        y = (jnp.cos(y @ p["c"]) + shared) @ p["e"]
        return (y, jnp.roll(shared, 1, -1)), shared

    (y, last), each = lax.scan(layer, (x, function(jnp, p, x)), length=2)
    return (jnp.cos(y @ p["c"]) + last + each[0]) @ p["d"]


def in_branches(function, p, x):
    """Two branches read it, a third one returns it."""
    shared = function(jnp, p, x)
    h = x @ p["a"]
    branches = [lambda h, s: h * s, lambda h, s: h + s, lambda h, s: s + jnp.zeros(h.shape)]
    h = lax.switch(jnp.int32(p["r"][0] > 0), branches, h, shared) @ p["b"]
    return (jnp.cos(h @ p["c"]) + shared) @ p["d"]


def in_a_while(function, p, x):
    shared = function(jnp, p, x)

    def step(state):
        i, table, y = state
        return i + 1, -table, jnp.tanh(jnp.sin(y @ p["a"]) * table) @ p["b"]

    _, table, y = lax.while_loop(lambda s: s[0] < 3, step, (0, shared, x))
    return (jnp.cos(y @ p["c"]) + table) @ p["d"]


def in_calls(function, p, x):
    shared = jax.jit(lambda: function(jnp, p, x))()
    h = jax.checkpoint(lambda x, s: jnp.tanh(jnp.sin(x @ p["a"]) * s) @ p["b"])(x, shared)
    return jax.jit(lambda h, s: (scaled(h @ p["c"], s) + s) @ p["d"])(h, shared)


@jax.custom_vjp
def scaled(h, table):
    return jnp.cos(h) * table


def _scaled(h, table):
    return scaled(h, table), (h, table, jnp.arange(1.0 * h.shape[-1]))


def _back(saved, g):
    h, table, rest = saved
    return (g * jnp.broadcast_to(table, h.shape) * (1 + rest) * -jnp.sin(h), jnp.zeros_like(table))


scaled.defvjp(_scaled, _back)

WAYS = (in_a_scan, carried_by_a_scan, in_branches, in_a_while, in_calls)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_constant_ties_nothing_wherever_it_goes(x64, way):
    """The units of either layer are cut alone; what is left agrees with gates."""
    for function in (linspace, of_the_shape_of_the_batch):
        apply = lambda p, x: way(function, p, x)  # noqa: E731, B023
        groups = find_groups(apply, PARAMS, X)
        assert not groups.unknown
        for of in (("a", 1), ("c", 1)):
            name = group_of(groups, *of)
            keeps = {name: KEEP}
            small = cut(PARAMS, groups, keeps)
            gates = {name: np.isin(np.arange(N), KEEP) * 1.0}
            whole = {n: jax.tree.map(np.shape, PARAMS[n]) for n in PARAMS}
            other = "c" if of[0] == "a" else "a"
            assert small[of[0]].shape == (3, 3) and small[other].shape == whole[other]
            one = gated(apply, groups)(PARAMS, gates, X)
            two = resized(apply, PARAMS, groups, keeps)(small, X)
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


def test_the_derivative_of_a_function_of_ones_own_reads_constants_as_well(x64):
    def apply(p, x):
        return in_calls(linspace, p, x)

    groups = find_groups(apply, PARAMS, X)
    name = group_of(groups, "c", 1)
    gates = {name: np.isin(np.arange(N), KEEP) * 1.0}
    loss = lambda f: lambda p: jnp.sum(jnp.sin(f(p)))  # noqa: E731
    large = jax.grad(loss(lambda p: gated(apply, groups)(p, gates, X)))(PARAMS)
    small = resized(apply, PARAMS, groups, {name: KEEP})
    found = jax.grad(loss(lambda p: small(p, X)))(cut(PARAMS, groups, {name: KEEP}))
    for path, each in cut(large, groups, {name: KEEP}).items():
        np.testing.assert_allclose(found[path], each, rtol=1e-10, atol=1e-12, err_msg=path)


# What does couple


def test_shared_weights_and_axes_that_inputs_have_stay_tied(x64):
    def apply(p, x):
        scale = jnp.exp(p["scale"])  # of each feature, for both layers
        return (jnp.tanh(jnp.tanh(x @ p["a"]) * scale @ p["b"] @ p["c"]) * scale) @ p["d"]

    groups = find_groups(apply, PARAMS | {"scale": np.ones(N)}, X)
    assert {m.path for m in groups[group_of(groups, "a", 1)].members} == {
        "a", "b", "c", "d", "scale",
    }  # fmt: skip

    def with_a_mask(p, x, mask):  # an input has the features
        return (jnp.tanh(jnp.tanh(x @ p["a"]) * mask @ p["b"] @ p["c"]) * mask) @ p["d"]

    groups = find_groups(with_a_mask, PARAMS, X, np.ones((B, T, N)))
    assert {"a", "c", "inputs/1"} <= {m.path for m in groups[group_of(groups, "a", 1)].members}


def test_random_bits_of_a_key_that_is_given_tie_no_layers(x64):
    def apply(p, x, key):
        kept = jax.random.bernoulli(key, 0.7, (B, T, N)) * 1.0
        return (jnp.tanh(jnp.tanh(x @ p["a"]) * kept @ p["b"] @ p["c"]) * kept) @ p["d"]

    key = jax.random.key(3)
    groups = find_groups(apply, PARAMS, X, key)
    keeps = {group_of(groups, "a", 1): KEEP}
    small = cut(PARAMS, groups, keeps)
    kept = np.asarray(jax.random.bernoulli(key, 0.7, (B, T, N))) * 1.0
    h = np.tanh(X @ PARAMS["a"]) * kept * np.isin(np.arange(N), KEEP) @ PARAMS["b"]
    expected = np.tanh(h @ PARAMS["c"]) * kept @ PARAMS["d"]
    out = resized(apply, PARAMS, groups, keeps)(small, X, key)
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)


# Writing


def test_width_under_a_norm_of_tokens_that_are_written_in_place(x64):
    """The class token is set in an array of zeros, messages are added: zero units stay zero."""
    p = PARAMS | {"token": RNG.normal(size=N)}

    def norm(h):
        return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 0.1)

    def apply(p, x):
        h = jnp.zeros((B, T + 1, N)).at[:, 1:].set(x @ p["a"]).at[:, 0].set(p["token"])
        h = h + jax.ops.segment_sum(h, jnp.array([1, 0]), 2) + jnp.fft.fft(h, axis=1).real
        return norm(h) @ p["d"]

    alive = np.isin(np.arange(N), KEEP)
    token = np.broadcast_to(p["token"], (B, 1, N))
    h = np.concatenate([token, X @ p["a"]], 1) * alive
    h = h + h[::-1] + np.fft.fft(h, axis=1).real
    expected = h / np.sqrt((h * h).mean(-1, keepdims=True) + 0.1) @ p["d"]
    check(apply, expected, p)


# Experts


def test_hidden_units_of_experts_are_cut_and_gated(x64):
    """Rows in order of their expert; of the experts none can go, nor is the order of rows known."""
    rng = np.random.default_rng(1)
    p = {"up": rng.normal(size=(3, 4, N)), "down": rng.normal(size=(3, N, 2))}
    p["router"] = rng.normal(size=(4, 3))
    x = rng.normal(size=(7, 4))

    def apply(p, x):
        expert = jnp.argmax(x @ p["router"], -1)
        order, sizes = jnp.argsort(expert), jnp.bincount(expert, length=3).astype(jnp.int32)
        h = jnp.tanh(lax.ragged_dot(x[order], p["up"], sizes))
        return lax.ragged_dot(h, p["down"], sizes)[jnp.argsort(order)]

    best = (x @ p["router"]).argmax(-1)
    alive = np.isin(np.arange(N), KEEP)
    rows = zip(x, best, strict=True)
    expected = [np.tanh(row @ p["up"][e]) * alive @ p["down"][e] for row, e in rows]
    groups, small = check(apply, expected, p, x, ("up", 2))
    assert groups.prunable == ("input", "up")
    assert small["up"].shape == (3, 4, 3) and small["down"].shape == (3, 3, 2)
    assert groups["up"].flops == pytest.approx(2 * 7 * (4 + 2))

    def width(p, x):  # a residual stream of 4 features under an RMSNorm
        h = x @ p["stem"]
        h = h + jnp.tanh(lax.ragged_dot(h, p["up"], jnp.array([2, 4, 1]))) @ p["out"]
        return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 0.1) @ p["head"]

    q = p | {"stem": rng.normal(size=(4, 4)), "out": rng.normal(size=(N, 4))}
    q["head"], stream = rng.normal(size=(4, 2)), np.isin(np.arange(4), [0, 3])
    h = x @ q["stem"] * stream
    made = np.concatenate([h[:2] @ p["up"][0], h[2:6] @ p["up"][1], h[6:] @ p["up"][2]])
    h = h + np.tanh(made) @ q["out"] * stream
    expected = h / np.sqrt((h * h).mean(-1, keepdims=True) + 0.1) @ q["head"]
    check(width, expected, q, x, ("stem", 1), np.array([0, 3]))
    with pytest.raises(ValueError, match="read where no batch axis is"):
        gated(apply, groups)(p, {"up": np.ones((7, N))}, x)
