"""Maxima and choices that keep which one it was, in bits.

Each takes (equation, operands, run) and gives the result, or None where it has no such form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dynhp_jax.finetune.packed import bits_for, pack, unpack

MOST = 2**8  # positions of a window


def pool_with_bits(eqn: Any, args: list[Any], run: Callable) -> Any:
    """The maximum over windows; kept is the position in each window, of equal ones the first."""
    p, array = eqn.params, args[0]
    sizes = p["window_dimensions"]
    if math.prod(sizes) > MOST:
        return None
    places = list(itertools.product(*map(range, sizes)))
    bits = bits_for(len(places))
    lowest = -jnp.inf

    def windows(x: Any, fill: float) -> list[Any]:
        """For each place in a window what all windows have there."""
        config = [
            (low, high, dilation - 1)
            for (low, high), dilation in zip(p["padding"], p["base_dilation"], strict=True)
        ]
        padded = lax.pad(x, jnp.asarray(fill, x.dtype), config)
        shape = eqn.outvars[0].aval.shape
        found = []
        for place in places:
            start = [k * d for k, d in zip(place, p["window_dilation"], strict=True)]
            limit = [
                s + (n - 1) * stride + 1
                for s, n, stride in zip(start, shape, p["window_strides"], strict=True)
            ]
            found.append(lax.slice(padded, start, limit, p["window_strides"]))
        return found

    @jax.custom_vjp
    def pooled(x: Any) -> Any:
        return run(x)[0]

    def forward(x: Any) -> tuple:
        best, *others = windows(x, lowest)
        codes = jnp.zeros(best.shape, jnp.uint8)
        for k, other in enumerate(others, start=1):
            codes = jnp.where(other > best, jnp.uint8(k), codes)
            best = jnp.maximum(best, other)
        return run(x)[0], pack(codes, bits)

    def backward(packed: Any, cotangent: Any) -> tuple:
        codes = unpack(packed, bits, cotangent.shape)
        each = [jnp.where(codes == k, cotangent, 0) for k in range(len(places))]
        aval = jax.ShapeDtypeStruct(array.shape, array.dtype)
        return jax.linear_transpose(lambda x: windows(x, 0.0), aval)(each)

    pooled.defvjp(forward, backward)
    return pooled(array)


def reduction_with_bits(eqn: Any, args: list[Any], run: Callable) -> Any:
    """The maximum over axes; kept is where it is, and equal ones share the derivative."""
    axes, shape = eqn.params["axes"], args[0].shape

    @jax.custom_vjp
    def largest(x: Any) -> Any:
        return run(x)[0]

    def forward(x: Any) -> tuple:
        result = run(x)[0]
        return result, pack(x == jnp.expand_dims(result, axes), 1)

    def backward(packed: Any, cotangent: Any) -> tuple:
        here = unpack(packed, 1, shape).astype(cotangent.dtype)
        share = cotangent / jnp.sum(here, axes)
        return (here * jnp.expand_dims(share, axes),)

    largest.defvjp(forward, backward)
    return largest(args[0])


def choice_with_bits(eqn: Any, args: list[Any], run: Callable) -> Any:
    """A choice between two arrays; kept is the mask."""
    mask, *cases = args
    if len(cases) != 2 or mask.dtype != bool or mask.ndim == 0:
        return None

    @jax.custom_vjp
    def chosen(mask: Any, no: Any, yes: Any) -> Any:
        return run(mask, no, yes)[0]

    def forward(mask: Any, no: Any, yes: Any) -> tuple:
        return chosen(mask, no, yes), pack(mask, 1)

    def backward(packed: Any, cotangent: Any) -> tuple:
        mask = unpack(packed, 1, cotangent.shape).astype(bool)
        nothing = jnp.zeros_like(cotangent)
        return None, jnp.where(mask, nothing, cotangent), jnp.where(mask, cotangent, nothing)

    chosen.defvjp(forward, backward)
    return chosen(mask, *cases)
