"""By primitive: whether results are zero where their operands are; see `zeros`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dynhp_jax.jaxprs.rules.collectives import BY_POSITION
from dynhp_jax.jaxprs.rules.contractions import PRODUCTS, product_axes
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE, IDENTITIES
from dynhp_jax.jaxprs.rules.indexing import static_gather_axis
from dynhp_jax.jaxprs.rules.matrices import whole_axes
from dynhp_jax.jaxprs.rules.reductions import CUMULATIVE, REDUCTIONS, WINDOWS
from dynhp_jax.jaxprs.rules.shapes import stretches
from dynhp_jax.jaxprs.rules.writing import window_axes
from dynhp_jax.jaxprs.values import Value
from dynhp_jax.jaxprs.zeros import (
    LOUD,
    NIL,
    OWN,
    SAME,
    ZERO,
    Known,
    Zeros,
    added,
    multiplied,
    result,
    zero_rule,
)  # fmt: skip

_NAMES = """
abs asin asinh atan atanh bessel_i1e cbrt ceil conj convert_element_type copy copy_p erf erf_inv
expm1 floor imag log1p name neg real reduce_precision round sign sin sinh sqrt square
stop_gradient tan tanh
"""
_OF_ZERO_ZERO = frozenset(_NAMES.split())
_SUMS = frozenset(
    {"add", "add_any", "sub", "max", "min", "or", "xor", "complex", "select_n", "clamp"}
)
_PRODUCTS = frozenset({"mul", "and"})
_OF_THE_FIRST = frozenset({"div", "rem", "shift_left", "shift_right_arithmetic"})
_OF_THE_FIRST |= {"shift_right_logical"}


@zero_rule(*ELEMENTWISE)
def _elementwise(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    shape, name = eqn.outvars[0].aval.shape, eqn.primitive.name
    sizes = [var.aval.shape for var in eqn.invars]
    consts = [value.const for value in values]
    kept = name in _OF_ZERO_ZERO or _is_power(eqn, consts)
    axes, nil = [], []
    for d in range(-1, len(shape)):  # -1: of the numbers themselves, for `nil`
        states = [
            known.along(d, repeated=d < 0 or bool(size) and size[d] != shape[d])
            for known, size in zip(operands, sizes, strict=True)
        ]
        if kept:
            state = states[0]
        elif name in _SUMS:
            state = _chosen(name, states, consts)
        elif name in _PRODUCTS:
            state = multiplied(states)
        elif name in _OF_THE_FIRST:
            state = multiplied(
                [states[0], *(SAME if s in (NIL, SAME) else LOUD for s in states[1:])]
            )
        else:
            state = SAME if set(states) <= {NIL, SAME} else LOUD
        (nil if d < 0 else axes).append(state)
    return result(operands, axes, nil == [NIL])


def _is_power(eqn: Any, consts: list) -> bool:
    """Whether it is a power of its first operand with a positive exponent."""
    if eqn.primitive.name == "integer_pow":
        return eqn.params["y"] > 0
    return eqn.primitive.name == "pow" and consts[1] is not None and bool((consts[1] > 0).all())


def _chosen(name: str, states: list[int], consts: list) -> int:
    """The state of a sum, or of one of several arrays; a bound that zero keeps does nothing."""
    if name == "select_n":
        state = added(states[1:])
        return LOUD if state == SAME and states[0] not in (NIL, SAME) else state
    bounds = {"max": (_low, _low), "min": (_high, _high), "clamp": (_low, None, _high)}.get(name)
    if bounds:
        states = [
            NIL if const is not None and holds is not None and holds(const) else state
            for state, const, holds in zip(states, consts, bounds, strict=True)
        ]
    return added(states)


def _low(bound: np.ndarray) -> bool:
    return bool((bound <= 0).all())


def _high(bound: np.ndarray) -> bool:
    return bool((bound >= 0).all())


@zero_rule(*IDENTITIES)
def _identity(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> list[Known]:
    return operands


# Shapes


@zero_rule("transpose")
def _transpose(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    (known,) = operands
    return Known(known.data, tuple(known.axes[d] for d in eqn.params["permutation"]), known.nil)


@zero_rule("squeeze")
def _squeeze(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    return _without(operands[0], eqn.params["dimensions"])


def _without(known: Known, gone: Iterable[int]) -> Known:
    axes = tuple(state for d, state in enumerate(known.axes) if d not in gone)
    return Known(known.data, axes, known.nil)


@zero_rule("broadcast_in_dim")
def _broadcast_in_dim(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    known, shape, small = operands[0], eqn.params["shape"], eqn.invars[0].aval.shape
    source = {d: k for k, d in enumerate(eqn.params["broadcast_dimensions"])}
    axes = (
        known.axes[source[d]] if d in source and small[source[d]] == size else SAME
        for d, size in enumerate(shape)
    )
    return Known(known.data, tuple(axes), known.nil)


@zero_rule("reshape")
def _reshape(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    known, shape = operands[0], eqn.params["new_sizes"]
    order = eqn.params["dimensions"] or range(len(known.axes))
    labels = [values[0].axes[d] for d in order]
    states, sizes = [known.axes[d] for d in order], [eqn.invars[0].aval.shape[d] for d in order]
    axes = [SAME] * len(shape)
    if 0 in shape:
        return result(operands, axes)
    for i0, i, j0, j in stretches(sizes, shape):
        several = [k for k in range(i0, i) if sizes[k] > 1 and zeros.matters(labels[k])]
        found = {states[k] for k in several} or {states[k] for k in range(i0, i) if sizes[k] > 1}
        state = LOUD if found == {SAME} and len(several) > 1 else added(found or {SAME})
        axes[j0:j] = [state if size > 1 else SAME for size in shape[j0:j]]
    return result(operands, axes, known.nil)


@zero_rule("rev", "slice", "dynamic_slice", "tile", *CUMULATIVE)
def _along(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    known = operands[0]
    if eqn.primitive.name == "cumlogsumexp":
        return result(operands, (LOUD,) * len(known.axes))
    return Known(any(k.data for k in operands), known.axes, known.nil)


@zero_rule("sort", "split")
def _each(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> list[Known]:
    several = len(operands) > 1
    return operands if several else operands * len(eqn.outvars)


@zero_rule("top_k")
def _top_k(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> list[Known]:
    return [operands[0], result(operands, (LOUD,) * len(operands[0].axes))]


@zero_rule("unstack")
def _unstack(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    return _without(operands[0], (eqn.params["axis"],))


@zero_rule("stack", "concatenate", "dynamic_update_slice")
def _joined(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    p, name = eqn.params, eqn.primitive.name
    parts = operands[:2] if name == "dynamic_update_slice" else operands
    axes = [added(known.along(d) for known in parts) for d in range(len(parts[0].axes))]
    if name == "stack":
        axes.insert(p["axis"], LOUD)
    elif name == "concatenate" and axes[p["dimension"]] == SAME:  # each part is another number
        axes[p["dimension"]] = LOUD
    return result(operands, axes, all(known.nil for known in parts))


@zero_rule("scatter", "scatter-add", "scatter-sub")
def _written(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    """A unit of axes that are written whole is zero where it is in both arrays."""
    known, _, updates = operands
    shape, small = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    window = window_axes(eqn.params["dimension_numbers"], len(shape))
    axes = (
        added([known.along(d), updates.along(window[d])])
        if d in window and small[window[d]] == size
        else LOUD
        for d, size in enumerate(shape)
    )
    return result(operands, axes, known.nil and updates.nil)


@zero_rule("fft")
def _transformed(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    (known,) = operands
    apart = len(known.axes) - whole_axes(eqn)
    return result(operands, (*known.axes[:apart], *[LOUD] * whole_axes(eqn)), known.nil)


@zero_rule("pad")
def _pad(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    known, filling = operands
    axes = [
        LOUD if state == SAME and padded != (0, 0, 0) else added([state, filling.along(0)])
        for state, padded in zip(known.axes, eqn.params["padding_config"], strict=True)
    ]
    return result(operands, axes, known.nil and filling.nil)


@zero_rule("iota")
def _iota(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    along = eqn.params["dimension"]
    return Known(False, tuple(OWN if d == along else SAME for d in range(len(eqn.params["shape"]))))


@zero_rule("gather")
def _gather(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    known, indices = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    static = static_gather_axis(eqn, values[1])
    left_out = {static, *numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    # Rows of a table that the data choose: an embedding makes its units.
    made = ZERO if indices.data and not known.data else OWN
    rest = [made if s == OWN else s for d, s in enumerate(known.axes) if d not in left_out]
    rest_sizes = [size for d, size in enumerate(sizes) if d not in left_out]
    full = [n for d, n in enumerate(eqn.invars[0].aval.shape) if d not in left_out]
    rest = [s if n == m else LOUD for s, n, m in zip(rest, rest_sizes, full, strict=True)]
    axes = []
    for d in range(len(eqn.outvars[0].aval.shape)):
        if d in numbers.offset_dims:
            axes.append(rest.pop(0))
        else:
            axes.append(LOUD if static is None else known.axes[static])
    return result(operands, axes, known.nil)


# Reductions


@zero_rule(*REDUCTIONS, *BY_POSITION)
def _reduce(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    (known,), name = operands, eqn.primitive.name
    gone = [d for d in eqn.params.get("axes", ()) if isinstance(d, int)]
    if name == "reduce_sum":
        value = values[0]
        for d in (
            gone
        ):  # `interpreter_resized` adds up numbers that are known beforehand at full size: a count
            zeros.sum(eqn, value.axes[d], NIL if value.const is not None else known.along(d))
    return _without(known, gone)


@zero_rule(*WINDOWS)
def _window(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> list[Known]:
    return [
        Known(known.data, tuple(LOUD if s == SAME else s for s in known.axes), known.nil)
        for known in operands[: len(eqn.outvars)]
    ]


# Contractions


@zero_rule(*PRODUCTS)
def _product(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    (lc, rc), (lb, rb) = product_axes(eqn)
    value, operands = values[0], operands[:2]
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    chosen = ragged.rhs_group_dimensions if ragged else ()
    for i, j in zip(lc, rc, strict=True):
        zeros.read(value.axes[i], operands, _met(operands, i, j))
    lhs, rhs = operands
    axes = [
        _made(operands, _met(operands, i, j), lhs.along(i), rhs.along(j))
        for i, j in zip(lb, rb, strict=True)
    ]
    for side, used in ((0, (*lc, *lb)), (1, (*rc, *rb, *chosen))):
        mine = operands[side]
        axes += [
            _of_kernel(operands, side, mine.along(d))
            for d in range(len(mine.axes))
            if d not in used
        ]
    if len(axes) < len(eqn.outvars[0].aval.shape):  # the groups of rows that are contracted
        axes.insert(0, LOUD)
    return result(operands, axes, lhs.nil or rhs.nil)


def _met(operands: list[Known], i: int, j: int) -> int:
    """The state of the products along an axis that both operands have."""
    return multiplied([operands[0].along(i), operands[1].along(j)])


def _of_kernel(operands: list[Known], side: int, state: int) -> int:
    """The state of an axis that one operand has alone: a kernel makes units of data."""
    makes = not operands[side].data and operands[1 - side].data
    return ZERO if makes and state == OWN else state


def _made(operands: list[Known], met: int, left: int, right: int) -> int:
    """The state of a batch axis: kernels that stand side by side make units of shared data."""
    shared = [state for known, state in zip(operands, (left, right), strict=True) if known.data]
    return ZERO if met == OWN and shared == [SAME] else met


@zero_rule("conv_general_dilated")
def _conv(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> Known:
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (ln, lf, *_), (ro, ri, *_) = numbers.lhs_spec, numbers.rhs_spec
    lhs, rhs = operands
    zeros.read(values[1].axes[ri], operands, _met(operands, lf, ri))
    made = _of_kernel(operands, 1, rhs.along(ro))
    if groups > 1 and eqn.invars[1].aval.shape[ro] == groups:  # a scale of each channel
        made = _made(operands, _met(operands, lf, ro), lhs.along(lf), rhs.along(ro))
    elif groups > 1:  # a channel is of a group, and one of those that are made in it
        made = added([_of_kernel(operands, 0, lhs.along(lf)), made])
    axes = [LOUD] * len(lhs.axes)
    axes[numbers.out_spec[0]] = lhs.along(ln)
    axes[numbers.out_spec[1]] = made
    return result(operands, axes, lhs.nil or rhs.nil)
