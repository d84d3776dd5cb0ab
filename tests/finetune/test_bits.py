"""Bits instead of floats: gradients of piecewise linear functions are JAX's own, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from dynhp_jax.common.errors import UserError
from dynhp_jax.finetune import bit_activations
from dynhp_jax.finetune.packed import pack, unpack

nothing = {"w": np.ones(1)}
SIZE = (3, 5, 7)  # nothing is a whole number of bytes
PIECES = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "abs": jnp.abs,
    "clip": lambda x: jnp.clip(x, -1, 1),
    "maximum": lambda x: jnp.maximum(x, 0),
    "in the open": lambda x: jnp.where(x > 0, 2 * x, jnp.where(x < -1, -x, 0.5 * x)),
    "two results": lambda x: jax.nn.relu(x) + 3 * jnp.minimum(jax.nn.relu(x), 1),
    "sum over it": lambda x: x + jax.nn.relu6(x + 3),
    "max": lambda x: x.max(1),
    "masked": lambda x: jnp.where(jnp.sin(x) > 0, x, x[:1] * jnp.ones((3, 1, 1))),
}
ROUNDED = ("hard_sigmoid", "two results")  # slopes that are multiplied or added up otherwise
BITS = {"relu": 1, "relu6": 1, "leaky_relu": 1, "hard_tanh": 1, "abs": 1, "clip": 2, "maximum": 2}


def numbers():
    """Random ones, and ties: whole numbers from -7 to 7."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=SIZE) * 3
    return jnp.asarray(np.where(rng.uniform(size=SIZE) < 0.5, np.round(x), x), "f4")


def gradients(f, x):
    value, back = jax.vjp(f, x)
    weights = np.random.default_rng(1).normal(size=value.shape)
    return value, back(jnp.asarray(weights, value.dtype))[0]


@pytest.mark.parametrize("name", PIECES)
def test_gradients_are_jaxs_own(name):
    x, f = numbers(), PIECES[name]
    coded = bit_activations(lambda _, x: f(x))
    value, slope = gradients(f, x)
    value_too, slope_too = gradients(lambda x: coded(nothing, x), x)
    np.testing.assert_array_equal(value, value_too)
    np.testing.assert_allclose(slope, slope_too, rtol=1e-6 if name in ROUNDED else 0)


def kept(f, x):
    """Bytes that the backward pass keeps beside its argument."""
    arrays = jax.tree.leaves(jax.vjp(f, x)[1])
    return sum(a.nbytes for a in arrays if a is not x)


@pytest.mark.parametrize("name", BITS)
def test_bits_that_are_kept(name):
    coded = bit_activations(lambda _, x: PIECES[name](jnp.cumsum(x, 1)))
    per_example = -(-35 // (8 // BITS[name]))
    assert kept(lambda x: coded(nothing, x), numbers()) == 3 * per_example


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(), (3,), (2, 9), (3, 1, 5)])
def test_packing(bits, shape):
    codes = np.random.default_rng(0).integers(0, 2**bits, shape)
    found = unpack(pack(jnp.asarray(codes), bits), bits, shape)
    np.testing.assert_array_equal(found, codes)


WINDOWS = {  # window, strides, padding
    "2x2": ((1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "3x3, overlapping": ((1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    "2x1": ((1, 2, 1, 1), (1, 1, 1, 1), "VALID"),
    "over channels": ((1, 1, 1, 3), (1, 1, 1, 3), "VALID"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_max_pooling_keeps_positions(name, x64):
    rng = np.random.default_rng(2)
    x = jnp.asarray(np.round(rng.normal(size=(2, 7, 6, 3)) * 2))  # many ties

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, *WINDOWS[name])

    coded = bit_activations(lambda _, x: pool(x))
    for one, other in zip(
        gradients(pool, x), gradients(lambda x: coded(nothing, x), x), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    sums = bit_activations(lambda _, x: pool(jnp.cumsum(x, 1)))
    assert kept(lambda x: sums(nothing, x), x) <= x.size / 2


def test_smooth_functions_are_left_alone_or_recomputed_or_labelled():
    x = numbers()
    for f in (jax.nn.gelu, jax.nn.silu, jax.nn.softplus):
        value, slope = gradients(f, x)
        memory = {}
        for smooth in ("exact", "recompute", "steps"):
            coded = bit_activations(lambda _, x, f=f: f(jnp.cumsum(x, 1)), smooth=smooth)
            memory[smooth] = kept(lambda x, coded=coded: coded(nothing, x), x)
            coded = bit_activations(lambda _, x, f=f: f(x), smooth=smooth)
            value_too, slope_too = gradients(lambda x, coded=coded: coded(nothing, x), x)
            np.testing.assert_array_equal(value, value_too)
            error = np.linalg.norm(slope - slope_too) / np.linalg.norm(slope)
            assert error < {"exact": 1e-9, "recompute": 1e-6, "steps": 0.3}[smooth]
            assert error > 0.01 or smooth != "steps"
        assert memory["steps"] == 3 * 9
        assert memory["recompute"] == x.nbytes < memory["exact"]
    with pytest.raises(UserError, match="smooth is 'few'; allowed: 'exact', 'recompute', 'steps'"):
        bit_activations(jax.nn.relu, smooth="few")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(6, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        body = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        x, _ = body()(x, None)
        return nn.Dense(3)(nn.leaky_relu(x).mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(6)(x)), None


def test_in_networks_with_loops_and_checkpoints(x64):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
    net = Net()
    variables = net.init(jax.random.key(0), x)
    coded = bit_activations(net.apply)

    def loss(apply):
        return lambda v, x: jnp.sum(jnp.sin(apply(v, x)))

    one = jax.jit(jax.grad(loss(net.apply), (0, 1)))(variables, x)
    two = jax.jit(jax.grad(loss(coded), (0, 1)))(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, two)
