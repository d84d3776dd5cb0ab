"""Primitives that treat every position alike: operands and results share their axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynhp_jax.jaxprs.labels import Axes, axis_size
from dynhp_jax.jaxprs.values import Value, Walk, rule

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc
exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma
log log1p log2 logistic lt lt_to max min mul mulhi name ne neg nextafter not one_minus_square or
polygamma population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor zeta
"""
ELEMENTWISE = frozenset(_NAMES.split())
# Each result is one operand; where it lies, or of what type it is taken to be, may be another.
IDENTITIES = frozenset(
    ("device_put", "optimization_barrier", "pcast", "pvary", "reshard", "sharding_constraint")
)

REPEATED = "one position that is repeated along an axis"

_INTEGER = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "rem": np.fmod,  # as lax.rem: the sign is the dividend's
    "max": np.maximum,
    "min": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}


@rule(*ELEMENTWISE)
def _elementwise(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    shape = eqn.outvars[0].aval.shape
    name = eqn.primitive.name
    return [Value(broadcast_together(walk, name, shape, operands), fold(eqn, operands))]


def broadcast_together(
    walk: Walk, name: str, shape: tuple[int, ...], operands: list[Value]
) -> Axes:
    """Axes of the result of an operation that acts position by position.

    An operand's axis of size one, or a scalar operand, stands for all positions of the result.
    """
    axes: list = []
    for d, size in enumerate(shape):
        axis = None
        for operand in operands:
            other = operand.axes[d] if operand.axes else None
            if other is None:
                continue
            if axis_size(other) != size:
                walk.labels.pin_axis(other, REPEATED)
            elif axis is None:
                axis = other
            else:
                axis = walk.labels.unify(axis, other, f"'{name}' of axes that divide differently")
        axes.append((walk.labels.fresh(size),) if axis is None else axis)
    return tuple(axes)


def fold(eqn: Any, operands: list[Value]) -> np.ndarray | None:
    """The result itself when it is known beforehand: small integer arrays (indices), scalars."""
    aval = eqn.outvars[0].aval
    if any(v.const is None for v in operands) or aval.size > 1 << 16:
        return None
    whole = np.issubdtype(aval.dtype, np.integer) or aval.dtype == np.bool_
    if not whole and aval.size > 1:
        return None
    values = [v.const for v in operands]
    name = eqn.primitive.name
    if name in _INTEGER:
        result = _INTEGER[name](*values)
    elif name == "select_n" and values[0].dtype == np.bool_ and len(values) == 3:
        result = np.where(values[0], values[2], values[1])
    elif name in ("convert_element_type", "copy", "copy_p", "stop_gradient"):
        result = values[0]
    elif name == "neg":
        result = -values[0]
    elif name == "not" and values[0].dtype == np.bool_:
        result = ~values[0]
    elif name == "clamp":
        result = np.clip(values[1], values[0], values[2])
    else:
        return None
    return np.broadcast_to(result, aval.shape).astype(aval.dtype)


@rule("bitcast_convert_type")
def _bitcast(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    """To a type of another size, the last axis of the narrower array holds the parts of a number.

    A number needs all its parts, so that they are no units.
    """
    axes, shape = operands[0].axes, eqn.outvars[0].aval.shape
    reason = "the parts of a number that bitcast_convert_type takes apart or joins"
    if len(shape) > len(axes):
        axes = (*axes, *walk.pinned_axes(shape[len(axes) :], reason))
    elif len(shape) < len(axes):
        walk.labels.pin_axis(axes[-1], reason)
        axes = axes[:-1]
    return [Value(axes)]


@rule(*IDENTITIES)
def _identity(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    return list(operands)
