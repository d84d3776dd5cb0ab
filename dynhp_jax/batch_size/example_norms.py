"""Squared norms of every example's share of a gradient, from what a layer read and its cotangent.

`probed` finds the places in a model's jaxpr where these belong. Squares and sums are of float32 at
least: the square of what a half-precision number can hold may be too small for one, or too large.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dynhp_jax.common.precision import wide, wide_type
from dynhp_jax.jaxprs.products import for_probe

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
        return change, for_probe(probe, norms, cotangent)

    def norms(cotangent: Any) -> Any:
        cotangent = wide(cotangent)
        # Each example's share of that sum: [examples, the leaf's axes], as large as a layer's
        # activations.
        lost = tuple(d + 1 for d in range(len(shape)) if d not in varies)
        if lost == (b + 1,) and b == 0 and shape[0] == examples:  # one place per example
            share = cotangent.reshape(examples, -1)
        else:
            rows = cotangent.reshape(*shape[:b], examples, -1, *shape[b + 1 :])
            share = jnp.moveaxis(rows, b, 0).sum(lost).reshape(examples, -1)
        return jnp.sum(jnp.square(share), 1)

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
        a, d = (wide(x.reshape(-1, x.shape[3])) for x in (a, d))
        return jnp.sum((jnp.sum(a * a, 1) * jnp.sum(d * d, 1)).reshape(-1, groups), 1)
    if places * (read + made) <= read * made:
        gram = _product("bgtk,bgsk->bgts", a, a) * _product("bgtm,bgsm->bgts", d, d)
        return jnp.sum(gram, (1, 2, 3))

    def one(pair: tuple) -> Any:
        product = _product("gtk,gtm->gkm", *pair)
        return jnp.sum(product * product)

    return _in_chunks(one, (a, d), a.shape[1] * read * made * _bytes(a))


def convolution_norms(
    image: Any, cotangent: Any, kernel: tuple[int, ...], params: Mapping[str, Any]
) -> Any:
    """f[batch]: squared norms of the examples' shares of a kernel's gradient.

    Args:
      image: [batch, features read, *space].
      cotangent: [batch, features made, *space], of the result.
      kernel: its size in space.
      params: of the convolution's equation.
    """
    groups = params["feature_group_count"]

    def one(pair: tuple) -> Any:
        x, d = pair
        patches = lax.conv_general_dilated_patches(
            x[None],
            kernel,
            params["window_strides"],
            params["padding"],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
        )[0]  # [in * kernel, *space], features grouped by channel
        a = patches.reshape(groups, -1, math.prod(patches.shape[1:]))
        d = d.reshape(groups, -1, math.prod(d.shape[1:]))
        return outer_product_norms(jnp.swapaxes(a, 1, 2)[None], jnp.swapaxes(d, 1, 2)[None])[0]

    entries = math.prod(cotangent.shape[2:]) * image.shape[1] * math.prod(kernel)
    return _in_chunks(one, (image, cotangent), entries * _bytes(image))


def look_up_norms(rows: Any, d: Any) -> Any:
    """f[batch]: squared norms of the examples' shares of a table's gradient.

    Args:
      rows: int[batch, places], which row of the table was read.
      d: [batch, places, features], the cotangent of what was read.
    """
    same = (rows[:, :, None] == rows[:, None, :]).astype(wide_type(d.dtype))
    return jnp.sum(_product("bsk,btk->bst", d, d) * same, (1, 2))


def _product(axes: str, left: Any, right: Any) -> Any:
    """`einsum`, summed up and kept in float32 at least."""
    dtype = wide_type(jnp.promote_types(left.dtype, right.dtype))
    return jnp.einsum(axes, left, right, preferred_element_type=dtype)


def _bytes(array: Any) -> int:
    """Of one number of it, in products."""
    return wide_type(array.dtype).itemsize


def _in_chunks(one: Callable, arrays: tuple, bytes_each: int) -> Any:
    """`vmap(one)` over the leading axis, with a bounded workspace."""
    examples = arrays[0].shape[0]
    chunk = max(1, min(examples, _CHUNK_BYTES // max(bytes_each, 1)))
    return lax.map(one, arrays, batch_size=chunk)
