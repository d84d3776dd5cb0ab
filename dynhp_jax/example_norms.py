"""Squared norms of every example's share of a gradient, from what a layer read and its cotangent.

`probing` finds the places in a model's jaxpr where these belong.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_CHUNK_BYTES = 1 << 22  # workspace for per-example products that have no closed form


def broadcast_with_norms(
    leaf: Any, probe: Any, shape: tuple[int, ...], dims: tuple[int, ...], b: int
) -> Any:
    """The leaf broadcast to `shape`, with a backward pass that adds the examples' norms to probe.

    Args:
      leaf: the parameter.
      probe: f[examples].
      shape: of the result.
      dims: the axis of the result for each axis of the leaf.
      b: the axis of the result that holds the examples, perhaps with faster factors after them.
    """
    examples = probe.shape[0]
    varies = {dims[d] for d, n in enumerate(leaf.shape) if n == shape[dims[d]] and n != 1}

    def spread(x: Any) -> Any:
        return lax.broadcast_in_dim(x, shape, dims)

    @jax.custom_vjp
    def expand(leaf: Any, probe: Any) -> Any:
        return spread(leaf)

    def forward(leaf: Any, probe: Any) -> tuple:
        return spread(leaf), None

    def backward(_: None, cotangent: Any) -> tuple:
        (change,) = jax.linear_transpose(spread, leaf)(cotangent)
        # Each example's share of that sum: [examples, the leaf's axes], as large as a layer's
        # activations.
        lost = tuple(d + 1 for d in range(len(shape)) if d not in varies)
        if lost == (b + 1,) and b == 0 and shape[0] == examples:  # one place per example
            share = cotangent.reshape(examples, -1)
        else:
            rows = cotangent.reshape(*shape[:b], examples, -1, *shape[b + 1 :])
            share = jnp.moveaxis(rows, b, 0).sum(lost).reshape(examples, -1)
        return change, jnp.sum(jnp.square(share), 1).astype(probe.dtype)

    expand.defvjp(forward, backward)
    return expand(leaf, probe)


def outer_product_norms(a: Any, d: Any) -> Any:
    """f[batch]: ||sum_t a_t outer d_t||^2, summed over groups.

    Args:
      a: [batch, groups, places, features read].
      d: [batch, groups, places, features made].
    """
    groups, places, read, made = *a.shape[1:], d.shape[3]
    if places == 1:
        # In two axes: XLA on a CPU is three times slower at sums over axes of size one, too.
        a, d = (x.reshape(-1, x.shape[3]) for x in (a, d))
        return jnp.sum((jnp.sum(a * a, 1) * jnp.sum(d * d, 1)).reshape(-1, groups), 1)
    if places * (read + made) <= read * made:
        gram = jnp.einsum("bgtk,bgsk->bgts", a, a) * jnp.einsum("bgtm,bgsm->bgts", d, d)
        return jnp.sum(gram, (1, 2, 3))

    def one(pair: tuple) -> Any:
        product = jnp.einsum("gtk,gtm->gkm", *pair)
        return jnp.sum(product * product)

    return in_chunks(one, (a, d), a.shape[1] * read * made * a.dtype.itemsize)


def in_chunks(one: Callable, arrays: tuple, bytes_each: int) -> Any:
    """`vmap(one)` over the leading axis, with a bounded workspace."""
    examples = arrays[0].shape[0]
    chunk = max(1, min(examples, _CHUNK_BYTES // max(bytes_each, 1)))
    return lax.map(one, arrays, batch_size=chunk)
