"""Pieces that the modules share: convolution and batch normalisation with one set of defaults."""

import math

import jax
from flax import linen as nn

from dynhp_jax.errors import UserError

# Normal with variance 2 / fan-in (He et al. 2015, Eq. 10); jax's own he_normal is truncated.
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv3x3(units: int, name: str, stride: int = 1, groups: int = 1) -> nn.Conv:
    """3x3 convolution without bias (a BatchNorm follows), one pixel of padding on every side.

    XLA's "SAME" would pad only the far side at stride 2; the papers pad both.
    """
    return nn.Conv(
        units,
        (3, 3),
        strides=stride,
        padding=1,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=HE_NORMAL,
        name=name,
    )


def conv1x1(units: int, name: str, stride: int = 1) -> nn.Conv:
    """1x1 convolution without bias."""
    return nn.Conv(units, (1, 1), strides=stride, use_bias=False, kernel_init=HE_NORMAL, name=name)


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch normalisation; in training by the batch, whose statistics enter with weight 0.1."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def check_input(x: jax.Array, shape: tuple[int, ...], name: str) -> None:
    """Refuses a batch whose examples do not have `shape`; a static check, free when compiled."""
    if tuple(x.shape[1:]) != tuple(shape) or x.ndim != len(shape) + 1:
        wanted = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} takes inputs [batch, {wanted}]; found shape {list(x.shape)}")


def scaled(width: int, multiplier: float) -> int:
    """`width` x `multiplier`, rounded, at least 1.

    >>> scaled(64, 0.25), scaled(1, 0.1)
    (16, 1)
    """
    check_multiplier(multiplier)
    return max(1, round(width * multiplier))


def check_multiplier(multiplier: float) -> None:
    """Refuses a width multiplier that is not a positive number."""
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise UserError(f"the width multiplier is {multiplier!r}; allowed: numbers above 0")
