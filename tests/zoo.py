"""Small models with their groups written out by hand.

A model is `(apply, variables, inputs, groups)`. `groups` maps names to members: `"leaf[axis]"` ->
int[units, k], the positions of each unit on that axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.structure.find import find_groups

MODELS = {}


def model(function):
    """Registers a function that returns (apply, shapes of the variables, inputs, groups)."""
    MODELS[function.__name__] = function
    return function


def build(name, seed=0):
    """(apply, float64 variables, inputs, groups) of a model."""
    apply, shapes, inputs, groups = MODELS[name]()
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda shape: rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return apply, variables, inputs, groups


@functools.cache
def grouped(name):
    """(the model, its groups), made once."""
    made = build(name)
    apply, variables, inputs, _ = made
    return made, find_groups(apply, variables, *inputs)


def leaves(tree):
    """{path: array}"""
    return {path_name(p): a for p, a in jax.tree_util.tree_leaves_with_path(tree)}


def rows(*shape):
    return np.random.default_rng(1).normal(size=shape)


def u(n, start=0):
    """One position for each of n units."""
    return start + np.arange(n)[:, None]


def outer(n, k):
    """The slow of two factors: unit u has k positions from k*u."""
    return np.arange(n * k).reshape(n, k)


def inner(n, k):
    """The fast of two factors: unit u has k positions, n apart."""
    return np.arange(n * k).reshape(k, n).T


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def batch_norm(x, p):
    return (x - p["mean"]) * lax.rsqrt(p["var"] ** 2 + 1e-5) * p["scale"] + p["bias"]


def of_norm(path, n):
    return {f"{path}/{leaf}[0]": u(n) for leaf in ("mean", "var", "scale", "bias")}


@model
def mlp():
    def apply(v, x):
        p = v["params"]
        h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
        h = jnp.tanh(h @ p["b"]["kernel"] + p["b"]["bias"])
        return h @ p["c"]["kernel"] + p["c"]["bias"]

    def dense(m, n):
        return {"kernel": (m, n), "bias": (n,)}

    shapes = {"params": {"a": dense(3, 4), "b": dense(4, 5), "c": dense(5, 2)}}
    groups = {
        "input": {"inputs/0[1]": u(3), "params/a/kernel[0]": u(3)},
        "a": {"params/a/kernel[1]": u(4), "params/a/bias[0]": u(4), "params/b/kernel[0]": u(4)},
        "b": {"params/b/kernel[1]": u(5), "params/b/bias[0]": u(5), "params/c/kernel[0]": u(5)},
    }
    return apply, shapes, (rows(2, 3),), groups


@model
def conv_flatten_dense():
    def apply(p, x):
        x = jax.nn.relu(batch_norm(conv(x, p["conv"]), p["bn"]))
        return x.reshape(x.shape[0], -1) @ p["out"]

    norm = dict.fromkeys(("mean", "var", "scale", "bias"), (3,))
    shapes = {"conv": (3, 3, 2, 3), "bn": norm, "out": (4 * 4 * 3, 2)}
    groups = {
        "input": {"inputs/0[3]": u(2), "conv[2]": u(2)},
        "conv": {"conv[3]": u(3), "out[0]": inner(3, 16), **of_norm("bn", 3)},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def residual_block():
    def apply(p, x):
        x = conv(x, p["stem"])
        y = jax.nn.relu(batch_norm(conv(x, p["conv1"]), p["bn"]))
        x = jax.nn.relu(x + conv(y, p["conv2"]))
        return x.mean((1, 2)) @ p["out"]

    norm = dict.fromkeys(("mean", "var", "scale", "bias"), (4,))
    shapes = {
        "stem": (1, 1, 2, 3),
        "conv1": (3, 3, 3, 4),
        "bn": norm,
        "conv2": (3, 3, 4, 3),
        "out": (3, 2),
    }
    groups = {
        "input": {"inputs/0[3]": u(2), "stem[2]": u(2)},
        "stem": {"stem[3]": u(3), "conv1[2]": u(3), "conv2[3]": u(3), "out[0]": u(3)},
        "conv1": {"conv1[3]": u(4), "conv2[2]": u(4), **of_norm("bn", 4)},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def option_a_shortcut():
    """A wider stage after a shortcut that pads: the padding's units have no other producer."""

    def apply(p, x):
        x = conv(x, p["stem"])
        short = jnp.pad(x[:, ::2, ::2], [(0, 0)] * 3 + [(1, 2)])
        x = jax.nn.relu(short + conv(x, p["conv"], stride=2))
        return x.mean((1, 2)) @ p["out"]

    shapes = {"stem": (1, 1, 2, 3), "conv": (3, 3, 3, 6), "out": (6, 2)}
    middle, rest = u(3, start=1), np.array([[0], [4], [5]])
    groups = {
        "input": {"inputs/0[3]": u(2), "stem[2]": u(2)},
        "stem": {"stem[3]": u(3), "conv[2]": u(3), "conv[3]": middle, "out[0]": middle},
        "conv": {"conv[3]": rest, "out[0]": rest},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def concatenated_features():
    """DenseNet: every layer reads all features so far."""

    def apply(p, x):
        x = conv(x, p["stem"])
        x = jnp.concatenate([x, jax.nn.relu(conv(x, p["grow1"]))], -1)
        x = jnp.concatenate([x, jax.nn.relu(conv(x, p["grow2"]))], -1)
        return x.mean((1, 2)) @ p["out"]

    shapes = {"stem": (1, 1, 2, 3), "grow1": (3, 3, 3, 2), "grow2": (3, 3, 5, 2), "out": (7, 2)}
    groups = {
        "input": {"inputs/0[3]": u(2), "stem[2]": u(2)},
        "stem": {"stem[3]": u(3), "grow1[2]": u(3), "grow2[2]": u(3), "out[0]": u(3)},
        "grow1": {"grow1[3]": u(2), "grow2[2]": u(2, 3), "out[0]": u(2, 3)},
        "grow2": {"grow2[3]": u(2), "out[0]": u(2, 5)},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def grouped_convolution():
    """Two groups of three features: groups go as a whole, or a feature of every group."""

    def apply(p, x):
        y = jax.nn.relu(conv(x @ p["widen"], p["grouped"], groups=2))
        return y.mean((1, 2)) @ p["out"]

    shapes = {"widen": (2, 6), "grouped": (3, 3, 3, 8), "out": (8, 2)}
    groups = {
        "input": {"inputs/0[3]": u(2), "widen[0]": u(2)},
        "widen:1": {"widen[1]": outer(2, 3), "grouped[3]": outer(2, 4), "out[0]": outer(2, 4)},
        "widen:2": {"widen[1]": inner(3, 2), "grouped[2]": u(3)},
        "grouped": {"grouped[3]": inner(4, 2), "out[0]": inner(4, 2)},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def depthwise_separable():
    def apply(p, x):
        x = jax.nn.relu(conv(x, p["expand"]))
        x = jax.nn.relu(conv(x, p["depthwise"], groups=5))
        return conv(x, p["project"]).mean((1, 2)) @ p["out"]

    shapes = {
        "expand": (1, 1, 2, 5),
        "depthwise": (3, 3, 1, 5),
        "project": (1, 1, 5, 3),
        "out": (3, 2),
    }
    groups = {
        "input": {"inputs/0[3]": u(2), "expand[2]": u(2)},
        "expand": {"expand[3]": u(5), "depthwise[3]": u(5), "project[2]": u(5)},
        "project": {"project[3]": u(3), "out[0]": u(3)},
    }
    return apply, shapes, (rows(2, 4, 4, 2),), groups


@model
def gated_linear_unit():
    def apply(p, x):
        a, b = jnp.split(x @ p["in"], 2, -1)
        return (a * jax.nn.sigmoid(b)) @ p["out"]

    shapes = {"in": (3, 8), "out": (4, 2)}
    groups = {
        "input": {"inputs/0[1]": u(3), "in[0]": u(3)},
        "in": {"in[1]": inner(4, 2), "out[0]": u(4)},
    }
    return apply, shapes, (rows(2, 3),), groups


@model
def fused_attention():
    """Queries, keys and values from one kernel, [3, heads, size], which all have one size."""

    def apply(p, x):
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, 3), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], 6)
        return (y @ p["merge"]).mean(1) @ p["out"]

    shapes = {"qkv": (4, 18), "merge": (6, 3), "out": (3, 2)}
    places = np.arange(18).reshape(3, 2, 3)  # [which, head, size]
    groups = {
        "input": {"inputs/0[2]": u(4), "qkv[0]": u(4)},
        "qkv:1": {"qkv[1]": np.moveaxis(places, 1, 0).reshape(2, 9), "merge[0]": outer(2, 3)},
        "qkv:2": {"qkv[1]": np.moveaxis(places, 2, 0).reshape(3, 6), "merge[0]": inner(3, 2)},
        "merge": {"merge[1]": u(3), "out[0]": u(3)},
    }
    return apply, shapes, (rows(2, 3, 4),), groups


@model
def grouped_query_attention():
    """Four heads of queries, [2, 2]: those of one of the two heads of keys and values go with it,
    or one by one, as many of both."""

    def apply(p, x):
        q = jnp.einsum("btc,chd->bthd", x, p["q"])
        k, v = (jnp.repeat(jnp.einsum("btc,chd->bthd", x, p[n]), 2, axis=2) for n in "kv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return jnp.einsum("bqhd,hdc->bqc", y, p["merge"]).mean(1)

    shapes = {"q": (3, 4, 2), "k": (3, 2, 2), "v": (3, 2, 2), "merge": (4, 2, 2)}
    groups = {
        "input": {"inputs/0[2]": u(3), "q[0]": u(3), "k[0]": u(3), "v[0]": u(3)},
        "q:1": {"q[1]": outer(2, 2), "k[1]": u(2), "v[1]": u(2), "merge[0]": outer(2, 2)},
        "q:2": {"q[1]": u(4), "merge[0]": u(4)},
        "q:3": {"q[2]": u(2), "k[2]": u(2)},
        "v": {"v[2]": u(2), "merge[1]": u(2)},
    }
    return apply, shapes, (rows(2, 3, 3),), groups


@model
def lstm():
    def apply(p, x):
        def step(state, x):
            h, c = state
            i, f, g, o = jnp.split(x @ p["in"] + h @ p["again"] + p["bias"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], 3))
        (h, _), _ = lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1))
        return h @ p["out"]

    shapes = {"in": (2, 12), "again": (3, 12), "bias": (12,), "out": (3, 2)}
    four = inner(3, 4)
    groups = {
        "input": {"inputs/0[2]": u(2), "in[0]": u(2)},
        "in": {"in[1]": four, "again[0]": u(3), "again[1]": four, "bias[0]": four, "out[0]": u(3)},
    }
    return apply, shapes, (rows(2, 3, 2),), groups


@model
def experts():
    """A mixture weighed by sigmoids: experts, and the hidden units that all of them have."""

    def apply(p, x):
        h = jnp.tanh(jnp.einsum("bc,ech->beh", x, p["in"]))
        y = jnp.einsum("beh,ehc,be->bc", h, p["back"], jax.nn.sigmoid(x @ p["router"]))
        return y @ p["out"]

    shapes = {"router": (3, 4), "in": (4, 3, 5), "back": (4, 5, 3), "out": (3, 2)}
    groups = {
        "input": {"inputs/0[1]": u(3), "router[0]": u(3), "in[1]": u(3)},
        "in:1": {"in[0]": u(4), "router[1]": u(4), "back[0]": u(4)},
        "in:2": {"in[2]": u(5), "back[1]": u(5)},
        "back": {"back[2]": u(3), "out[0]": u(3)},
    }
    return apply, shapes, (rows(2, 3),), groups


@model
def scanned_mlp():
    """Layers stacked along an axis that a scan runs over."""

    def apply(p, x):
        def step(x, layer):
            return x + jnp.tanh(x @ layer["up"]) @ layer["down"], None

        x, _ = lax.scan(step, x @ p["stem"], p["layers"])
        return x @ p["out"]

    shapes = {"stem": (3, 4), "layers": {"up": (2, 4, 5), "down": (2, 5, 4)}, "out": (4, 2)}
    groups = {
        "input": {"inputs/0[1]": u(3), "stem[0]": u(3)},
        "stem": {"stem[1]": u(4), "layers/up[1]": u(4), "layers/down[2]": u(4), "out[0]": u(4)},
        "layers": {"layers/up[2]": u(5), "layers/down[1]": u(5)},
    }
    return apply, shapes, (rows(2, 3),), groups


@model
def tied_embedding():
    """One table makes the features of tokens and reads them again for the logits."""

    def apply(p, x):
        h = p["table"][x]
        h = h + jnp.tanh(h @ p["up"]) @ p["down"]
        return h @ p["table"].T

    shapes = {"table": (7, 4), "up": (4, 5), "down": (5, 4)}
    groups = {
        "table": {"table[1]": u(4), "up[0]": u(4), "down[1]": u(4)},
        "up": {"up[1]": u(5), "down[0]": u(5)},
    }
    return apply, shapes, (np.array([[0, 3, 6], [1, 1, 2]]),), groups


@model
def group_norm():
    """Statistics within each of two groups: groups go as a whole, their features only inexactly."""

    def apply(p, x):
        x = x @ p["in"]
        y = x.reshape(-1, 2, 3)
        y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return (y.reshape(x.shape) * p["scale"]) @ p["out"]

    shapes = {"in": (3, 6), "scale": (6,), "out": (6, 2)}
    groups = {
        "input": {"inputs/0[1]": u(3), "in[0]": u(3)},
        "in:1": dict.fromkeys(("in[1]", "scale[0]", "out[0]"), outer(2, 3)),
        "in:2": dict.fromkeys(("in[1]", "scale[0]", "out[0]"), inner(3, 2)),
    }
    return apply, shapes, (rows(2, 3),), groups
