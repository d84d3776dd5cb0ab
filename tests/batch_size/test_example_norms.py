"""Norms of half-precision gradients, whose squares their own type cannot hold."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from dynhp_jax.batch_size import variance
from dynhp_jax.batch_size.example_norms import (
    broadcast_with_norms,
    convolution_norms,
    look_up_norms,
    outer_product_norms,
)

EXAMPLES = 5
HALF = [np.float16, ml_dtypes.bfloat16]


def small(dtype, *shape, seed=0, scale=1e-4):
    """Numbers that float16 holds, of which it holds neither squares nor products."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def agree(got, want):
    assert got.dtype == jnp.float32 and want.min() > 0
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("places, read, made", [(1, 4, 3), (2, 8, 6), (9, 4, 3)])
def test_outer_products(dtype, places, read, made):
    """One place, the Gram form, and the product itself."""
    a = small(dtype, EXAMPLES, 2, places, read)
    d = small(dtype, EXAMPLES, 2, places, made, seed=1, scale=1e-2)
    gradients = np.einsum("bgtk,bgtm->bgkm", a.astype(float), d.astype(float))
    agree(outer_product_norms(jnp.asarray(a), jnp.asarray(d)), (gradients**2).sum((1, 2, 3)))


@pytest.mark.parametrize("dtype", HALF)
def test_rows_of_a_table(dtype):
    rows = np.random.default_rng(2).integers(0, 3, (EXAMPLES, 7))
    d = small(dtype, EXAMPLES, 7, 4)
    gradients = np.zeros((EXAMPLES, 3, 4))
    for example in range(EXAMPLES):
        np.add.at(gradients[example], rows[example], d[example].astype(float))
    agree(look_up_norms(jnp.asarray(rows), jnp.asarray(d)), (gradients**2).sum((1, 2)))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", [(EXAMPLES, 4), (EXAMPLES, 3, 4)])
def test_biases(dtype, shape):
    """With one place per example, and with several."""
    cotangent = small(dtype, *shape)

    def total(probe):
        bias = broadcast_with_norms(jnp.ones(4, dtype), probe, shape, (len(shape) - 1,), 0)
        return jnp.sum(bias.astype(jnp.float32) * cotangent.astype(np.float32))

    shares = cotangent.astype(float).reshape(EXAMPLES, -1, 4).sum(1)
    agree(jax.grad(total)(jnp.zeros(EXAMPLES)), (shares**2).sum(1))


@pytest.mark.parametrize("dtype", HALF)
def test_kernels(dtype):
    image, cotangent = small(dtype, EXAMPLES, 2, 5, 4), small(dtype, EXAMPLES, 3, 3, 3, scale=1e-2)
    params = {
        "feature_group_count": 1, "window_strides": (1, 1), "padding": ((0, 0), (0, 0)),
        "lhs_dilation": (1, 1), "rhs_dilation": (1, 1),
    }  # fmt: skip
    gradients = np.zeros((EXAMPLES, 3, 2, 3, 2))
    for i in range(3):
        for j in range(2):
            patch = image[:, :, i : i + 3, j : j + 3].astype(float)
            gradients[..., i, j] = np.einsum("bkhw,bmhw->bmk", patch, cotangent.astype(float))
    got = convolution_norms(jnp.asarray(image), jnp.asarray(cotangent), (3, 2), params)
    agree(got, (gradients**2).sum((1, 2, 3, 4)))


def model(p, x):
    h = jnp.tanh(x @ (p["a"] * jnp.asarray([1.0, 0.5, 2.0, 1.0], x.dtype)[:, None]) + p["c"])
    return h @ p["b"]


def variables(dtype):
    shapes = {"a": (4, 6), "b": (6, 2), "c": (6,)}
    return {name: small(dtype, *shape, scale=1.0) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", HALF)
def test_the_probe_of_a_large_batch(dtype):
    """Gradients of a mean over 4096 examples are small, all the smaller their squares."""
    x = small(dtype, 4096, 4, seed=3, scale=1.0)
    labels = np.arange(4096) % 2

    def found(dtype):
        def loss(p, probe):
            logits = variance.probed(model, "")(p, probe, jnp.asarray(x, dtype))
            logits = logits.astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        p = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables(HALF[1]))
        gradient, of_examples = jax.jit(jax.grad(loss, (0, 1)))(p, jnp.zeros(4096))
        return variance.of_probe(of_examples, gradient)

    got, want = found(dtype), found(np.float32)
    assert got.dtype == jnp.float32 and want > 0.1
    np.testing.assert_allclose(got, want, rtol=0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_examples_and_of_micro_batches(dtype):
    x, y = small(dtype, 64, 4, scale=1e-2), small(dtype, 64, 2, seed=1, scale=1e-2)
    p = jax.tree.map(jnp.asarray, variables(dtype))

    def loss(p, x, y):
        return 0.01 * jnp.sum((model(p, x) - y) ** 2)

    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(p, x, y)
    rows = np.concatenate(
        [np.asarray(g, float).reshape(64, -1) for g in jax.tree.leaves(gradients)], 1
    )
    got, mean = variance.per_example(loss, p, x, y)
    agree(got, np.sum(rows.var(0)))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(mean))
    agree(variance.of_micro_batches(gradients, 3), 3 * np.sum(rows.var(0, ddof=1)))
    agree(variance.squared_norm(gradients), np.sum(rows**2))
