"""Small whole numbers, several to a byte."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp


def bits_for(count: int) -> int:
    """Bits of a number below `count`, so that whole numbers of them fill a byte.

    >>> [bits_for(n) for n in (2, 3, 4, 9, 17)]
    [1, 2, 2, 4, 8]
    """
    return next(bits for bits in (1, 2, 4, 8) if count <= 2**bits)


def pack(codes: Any, bits: int) -> Any:
    """Numbers below 2**bits as bytes u8[examples, bytes], each example padded to whole bytes.

    Args:
      codes: [examples, ...] of whole numbers or bool.
      bits: 1, 2, 4 or 8.

    >>> pack(jnp.array([[1, 0, 0, 1, 0, 0, 0, 0, 1]]), 1).tolist()
    [[17, 2]]
    >>> unpack(pack(jnp.array([3, 0, 2]), 2), 2, (3,)).tolist()
    [3, 0, 2]
    """
    rows, size, each = _sizes(codes.shape, bits)
    flat = codes.astype(jnp.uint8).reshape(rows, size)
    flat = jnp.pad(flat, ((0, 0), (0, -size % each))).reshape(rows, each, -1)
    shifts = jnp.arange(each, dtype=jnp.uint8)[:, None] * jnp.uint8(bits)
    # A sum, which XLA does not put into the loop that reads the bits: there it would need what they
    # were computed of, and keep that instead.
    return jnp.sum(flat << shifts, 1, dtype=jnp.uint8)


def unpack(packed: Any, bits: int, shape: tuple[int, ...]) -> Any:
    """The numbers u8[*shape] again."""
    rows, size, each = _sizes(shape, bits)
    shifts = jnp.arange(each, dtype=jnp.uint8)[:, None] * jnp.uint8(bits)
    codes = (packed[:, None, :] >> shifts) & jnp.uint8(2**bits - 1)
    return codes.reshape(rows, -1)[:, :size].reshape(shape)


def _sizes(shape: tuple[int, ...], bits: int) -> tuple[int, int, int]:
    """Examples, numbers of each, and how many of them fill a byte."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // max(rows, 1), 8 // bits
