"""Half precision is for what a model computes; what is made of squares and quotients needs more."""

from typing import Any

import jax.numpy as jnp


def wide(array: Any) -> Any:
    """An array in float32 if its type holds less; any other as it is."""
    dtype = jnp.result_type(array)
    return array if wide_type(dtype) == dtype else jnp.asarray(array, wide_type(dtype))


def wide_type(dtype: Any) -> Any:
    """float32 for floating-point types that hold less; any other as it is."""
    half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if half else dtype
