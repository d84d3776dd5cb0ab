"""The NumPy evaluator that the property tests stand on, against compiled JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_eval
import pytest
from architectures import Seeded, random_case
from jax import lax


def agree(function, *args):
    expected = jax.jit(function)(*args)
    found = numpy_eval.compiled(function, *args)(*args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(6))
def test_gradients_of_random_architectures(x64, seed):
    case = random_case(Seeded(seed))
    agree(jax.grad(lambda v: jnp.sum(jnp.sin(case.apply(v, *case.inputs)))), case.variables)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_a_convolution(x64, groups):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 6, 4)), rng.normal(size=(3, 2, 4 // groups, 6))

    def apply(x, w):
        y = lax.conv_general_dilated(
            x,
            w,
            (2, 1),
            [(1, 0), (2, 1)],
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.sum(jnp.sin(y))

    agree(jax.grad(apply, argnums=(0, 1)), x, w)


def test_gradients_of_indexing(x64):
    rng = np.random.default_rng(0)
    table, at = rng.normal(size=(5, 3)), np.array([[0, 4, 4], [2, 1, 0]])

    def apply(table):
        return jnp.sum(jnp.sin(table[at]) @ table[:, at[0] % 3][:3]) + jnp.sum(jnp.cumsum(table, 1))

    agree(jax.grad(apply), table)
