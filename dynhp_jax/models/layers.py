"""Pieces that the modules share: convolution and batch normalisation with one set of defaults."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from dynhp_jax.common.errors import UserError

WIDEST = 2**31 - 1  # units are numbered in int32


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with variance 2 / fan-in (He et al. 2015, Eq. 10); jax's own one is truncated."""
    return _normal(key, shape, dtype, math.sqrt(2 / math.prod(shape[:-1])))


def small_normal(deviation: float) -> Callable[..., jax.Array]:
    """Initialiser: normal with this standard deviation, whatever the widths."""
    return lambda key, shape, dtype=jnp.float32: _normal(key, shape, dtype, deviation)


def _normal(key: jax.Array, shape: tuple[int, ...], dtype, deviation: float) -> jax.Array:
    # XLA takes up to a second on a CPU to compile a random draw, and a MobileNet has fifty shapes:
    # drawing flat, in sizes that are powers of two, compiles a handful of programs instead.
    count = math.prod(shape)
    bucket = max(2**14, 1 << (count - 1).bit_length())
    return _fit(_draw(key, bucket, dtype), deviation, tuple(shape))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: jax.Array, count: int, dtype) -> jax.Array:
    return jax.random.normal(key, (count,), dtype)


@functools.partial(jax.jit, static_argnums=2)
def _fit(draws: jax.Array, deviation: float, shape: tuple[int, ...]) -> jax.Array:
    return draws[: math.prod(shape)].reshape(shape) * deviation


def conv3x3(units: int, name: str, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv:
    """3x3 convolution, without bias where a BatchNorm follows; one pixel of padding on every side.

    XLA's "SAME" would pad only the far side at stride 2; the papers pad both.
    """
    return nn.Conv(
        units,
        (3, 3),
        strides=stride,
        padding=1,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=he_normal,
        name=name,
    )


def conv1x1(units: int, name: str, stride: int = 1, bias: bool = False) -> nn.Conv:
    """1x1 convolution, without bias where a BatchNorm follows."""
    return nn.Conv(units, (1, 1), strides=stride, use_bias=bias, kernel_init=he_normal, name=name)


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch normalisation; in training by the batch, whose statistics enter with weight 0.1."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def check_input(x: jax.Array, shape: tuple[int, ...], name: str) -> None:
    """Refuses a batch whose examples do not have `shape`; a static check, free when compiled."""
    if tuple(x.shape[1:]) != tuple(shape) or x.ndim != len(shape) + 1:
        wanted = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} takes inputs [batch, {wanted}]; found shape {list(x.shape)}")


def scaled(width: int, multiplier: float) -> int:
    """`width` x `multiplier`, rounded, at least 1, so far as units can be numbered.

    >>> scaled(64, 0.25), scaled(1, 0.1)
    (16, 1)
    """
    check_multiplier(multiplier)
    if width * multiplier > WIDEST:
        raise UserError(f"a width of {width * multiplier:.3g} units; allowed: {WIDEST} at most")
    return max(1, round(width * multiplier))


def check_multiplier(multiplier: float) -> None:
    """Refuses a width multiplier that is not a positive number."""
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise UserError(f"the width multiplier is {multiplier!r}; allowed: numbers above 0")
