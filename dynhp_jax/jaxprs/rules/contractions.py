"""Matrix products and convolutions: where units are produced and where they are read."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.values import Contraction, Value, Walk, rule

PRODUCTS = ("dot_general", "ragged_dot_general")
CONTRACTIONS = (*PRODUCTS, "conv_general_dilated")


def product_axes(eqn: Any) -> tuple:
    """((contracted, contracted), (batch, batch)): axes of the two factors of a matrix product."""
    if eqn.primitive.name == "dot_general":
        return eqn.params["dimension_numbers"]
    return eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers


@rule("dot_general")
def _dot_general(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    return [Value(_product(walk, eqn, *operands))]


@rule("ragged_dot_general")
def _ragged_dot(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    """Products of stretches of rows with a matrix for each: experts. Neither of these are units."""
    lhs, rhs, *rest = operands
    for value in rest:
        walk.pin(value, "the sizes of the groups of a ragged product")
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    for d in numbers.lhs_ragged_dimensions:
        walk.labels.pin_axis(lhs.axes[d], "rows that lie in groups of a ragged product")
    for d in numbers.rhs_group_dimensions:
        walk.labels.pin_axis(rhs.axes[d], "the groups of a ragged product")
    axes = _product(walk, eqn, lhs, rhs, numbers.rhs_group_dimensions)
    shape = eqn.outvars[0].aval.shape
    if len(shape) > len(axes):  # the rows are contracted, those of each group by themselves
        axes = (*walk.pinned_axes(shape[:1], "the groups of a ragged product"), *axes)
    return [Value(axes)]


def _product(
    walk: Walk, eqn: Any, lhs: Value, rhs: Value, chosen: Collection[int] = ()
) -> tuple[Axis, ...]:
    """The axes of a matrix product.

    Args:
      walk: of the analysis.
      eqn: the equation.
      lhs: one factor.
      rhs: the other one.
      chosen: axes of the other one, of which each row of the first meets one position.
    """
    (lc, rc), (lb, rb) = product_axes(eqn)
    batch = [
        walk.labels.unify(lhs.axes[i], rhs.axes[j], "batch axes that divide differently")
        for i, j in zip(lb, rb, strict=True)
    ]
    contracted = [
        walk.labels.unify(lhs.axes[i], rhs.axes[j], "contracted axes that divide differently")
        for i, j in zip(lc, rc, strict=True)
    ]
    lhs_free = [a for d, a in enumerate(lhs.axes) if d not in (*lc, *lb)]
    rhs_free = [a for d, a in enumerate(rhs.axes) if d not in (*rc, *rb, *chosen)]
    for value, free in ((lhs, lhs_free), (rhs, rhs_free)):
        for axis in contracted:
            walk.role(value, "in", axis)
        for axis in free:
            walk.role(value, "out", axis)
    walk.join(lhs, rhs, contracted)
    every = (*batch, *lhs_free, *rhs_free, *contracted)
    flops = 2.0 * math.prod(axis_size(a) for a in every) * walk.repeats
    walk.contractions.append(Contraction(flops, every))
    made = (*batch, *lhs_free, *rhs_free)
    for axis in made:  # work is done for each position
        walk.labels.bind_axis(axis)
    return made


@rule("conv_general_dilated")
def _conv(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    lhs, rhs = operands
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (ln, lf, *_), (ro, ri, *rs) = numbers.lhs_spec, numbers.rhs_spec
    out_shape = eqn.outvars[0].aval.shape
    reason = "a spatial axis of a convolution"
    for d in numbers.lhs_spec[2:]:
        walk.labels.pin_axis(lhs.axes[d], reason)
    for d in rs:
        walk.labels.pin_axis(rhs.axes[d], reason)
    if eqn.params["batch_group_count"] != 1:
        for value in operands:
            walk.pin(value, "a convolution with batch groups")
        return [Value(walk.pinned_axes(out_shape, "a convolution with batch groups"))]

    if groups == 1:
        read = walk.labels.unify(lhs.axes[lf], rhs.axes[ri], "features that divide differently")
        made = rhs.axes[ro]
        walk.role(rhs, "in", read)
        walk.role(rhs, "out", made)
    else:
        made = _grouped(walk, lhs.axes[lf], rhs.axes[ri], rhs.axes[ro], groups, rhs)
    out: list[Axis] = [()] * len(out_shape)
    out[numbers.out_spec[0]] = lhs.axes[ln]
    out[numbers.out_spec[1]] = made
    spatial = []
    for d in numbers.out_spec[2:]:
        out[d] = walk.pinned_axes((out_shape[d],), reason)[0]
        spatial.append(out[d])
    every = (lhs.axes[ln], *spatial, *(rhs.axes[d] for d in rs), rhs.axes[ri], made)
    flops = 2.0 * math.prod(axis_size(a) for a in every) * walk.repeats
    walk.contractions.append(Contraction(flops, every))
    walk.bind(Value(tuple(out)))
    return [Value(tuple(out))]


def _grouped(walk: Walk, lhs: Axis, rhs_in: Axis, rhs_out: Axis, groups: int, rhs: Value) -> Axis:
    """Grouped convolution: features are [groups, in] read and [groups, out] made."""
    labels = walk.labels
    per_in, per_out = axis_size(rhs_in), axis_size(rhs_out) // groups
    reason = "convolution groups that divide differently"
    group = (labels.fresh(groups),)
    walk.convolved.append(group[0])
    labels.unify(lhs, (*group, *rhs_in) if per_in > 1 else group, reason)
    made = (labels.fresh(per_out),) if per_out > 1 else ()
    labels.unify(rhs_out, (*group, *made), reason)
    if per_in > 1:
        walk.role(rhs, "in", rhs_in)
    else:
        labels.pin_axis(rhs_in, "the input axis of a depthwise convolution")
    if made:
        walk.role(rhs, "out", made)
    return labels.resolve((*group, *made))
