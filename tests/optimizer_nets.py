"""A small perceptron in float64 whose inputs and hidden units are cut, and its updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.structure.find import find_groups
from dynhp_jax.surgery.cut import cut

WIDTHS = (6, 7, 5, 3)
KEEPS = {"input": np.array([0, 1, 3, 5]), "a": np.array([0, 2, 3, 6]), "b": np.array([1, 2, 4])}


def apply(params, x):  # [batch, 6] -> [batch, 3]
    for name in "ab":
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["c"]["kernel"] + params["c"]["bias"]


def network(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        name: {
            "kernel": jnp.asarray(rng.normal(size=(i, o))),
            "bias": jnp.asarray(rng.normal(size=o)),
        }
        for name, i, o in zip("abc", WIDTHS[:-1], WIDTHS[1:], strict=True)
    }
    x, y = rng.normal(size=(9, WIDTHS[0])), rng.normal(size=(9, WIDTHS[-1]))
    return params, jnp.asarray(x), jnp.asarray(y), find_groups(apply, params, x)


def alive(params, groups):
    """Tree of 0/1: the numbers that survive KEEPS."""
    numbered = jax.tree.map(lambda p: jnp.arange(p.size).reshape(p.shape), params)
    kept = cut(numbered, groups, KEEPS)
    return jax.tree.map(lambda n, k: jnp.isin(n, k).astype(jnp.float64), numbered, kept)


@jax.jit
def gradient(params, mask, x, y):
    """Of a loss in which the parameters are multiplied by the mask; compiled once per size."""

    def loss(params):
        # tanh(0) = 0, so that a unit without inward weights and bias is silent
        return jnp.mean((apply(jax.tree.map(jnp.multiply, params, mask), x) - y) ** 2)

    return jax.grad(loss)(params)


def stepper(tx, x, y):
    """One update, compiled without optimisation: there are many optimizers and few numbers."""
    update = jax.jit(tx.update, compiler_options={"xla_backend_optimization_level": 0})

    def step(params, state, mask=None):
        fast = getattr(params, "fast", params)
        mask = jax.tree.map(jnp.ones_like, fast) if mask is None else mask
        updates, state = update(gradient(fast, mask, x, y), state, params)
        return optax.apply_updates(params, updates), state

    return step


def assert_equal_trees(one, other, rtol):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        assert (jnp.shape(a), jnp.result_type(a)) == (jnp.shape(b), jnp.result_type(b)), path
        if rtol == 0:
            np.testing.assert_array_equal(a, b, err_msg=str(path))
        else:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=str(path))
