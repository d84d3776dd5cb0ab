"""The gradient of a depthwise convolution's kernel, place by place of the kernel.

XLA on a CPU makes of the ordinary one a convolution in which every channel meets every other, and
drops what is not wanted: for K channels K times the numbers. Here each place of the kernel is a
product of what it read and the cotangent, summed over examples and space, for which the data are
copied with their padding. Of many channels and little space the copy is the smaller one.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax


def smaller(eqn: Any, array: Any) -> bool:
    """Whether a copy of the data takes less than the kernel of every channel with every other.

    Args:
      eqn, array: as in `kernel_gradient`.
    """
    numbers = eqn.params["dimension_numbers"]
    channels = array.shape[numbers.lhs_spec[1]]
    places = math.prod(eqn.invars[1].aval.shape[d] for d in numbers.rhs_spec[2:])
    each = eqn.invars[1].aval.shape[numbers.rhs_spec[0]] // eqn.params["feature_group_count"]
    return channels * channels * each * places > array.size


def kernel_gradient(eqn: Any, array: Any, cotangent: Any) -> Any:
    """[channels, multiplier, *places]: the gradient of the kernel.

    Args:
      eqn: a `conv_general_dilated` of a channel a group; its groups are not looked at.
      array: the data, of any number of channels.
      cotangent: of what these channels make.
    """
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    dtype = jnp.promote_types(eqn.invars[1].aval.dtype, jnp.float32)
    array = jnp.transpose(array, _channels_last(numbers.lhs_spec))
    cotangent = jnp.transpose(cotangent, _channels_last(numbers.out_spec))
    space, channels = cotangent.shape[1:-1], array.shape[-1]
    cotangent = cotangent.reshape(*cotangent.shape[:-1], channels, -1)
    around = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    padded = lax.pad(array, jnp.zeros((), array.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    kernel = [eqn.invars[1].aval.shape[d] for d in numbers.rhs_spec[2:]]
    found = []
    for place in itertools.product(*map(range, kernel)):
        first = [k * d for k, d in zip(place, params["rhs_dilation"], strict=True)]
        ends = zip(first, space, params["window_strides"], strict=True)
        last = [start + (size - 1) * stride + 1 for start, size, stride in ends]
        read = lax.slice(
            padded,
            (0, *first, 0),
            (padded.shape[0], *last, channels),
            (1, *params["window_strides"], 1),
        )
        products = read[..., None].astype(dtype) * cotangent.astype(dtype)
        found.append(products.sum(tuple(range(products.ndim - 2))))
    stacked = jnp.stack(found, axis=-1).reshape(channels, -1, *kernel)
    return stacked.astype(eqn.invars[1].aval.dtype)


def _channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """From the axes of examples, channels and space as they are numbered, to channels last."""
    return (spec[0], *spec[2:], spec[1])
