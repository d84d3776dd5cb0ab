"""Primitives that combine the positions of an axis: exact only where the axis stays whole."""

from __future__ import annotations

from typing import Any

from dynhp_jax.jaxprs.labels import axis_size
from dynhp_jax.jaxprs.naming import Reduced
from dynhp_jax.jaxprs.values import Index, Value, Walk, rule

REDUCTIONS = (
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
    "reduce_xor",
)  # fmt: skip
CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
WINDOWS = ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")


@rule(*REDUCTIONS)
def _reduce(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, gone = operands[0], eqn.params["axes"]
    axes = tuple(axis for d, axis in enumerate(value.axes) if d not in gone)
    reduced = tuple(value.axes[d] for d in gone)
    if eqn.primitive.name != "reduce_sum":
        for axis in reduced:
            walk.labels.flag_axis(axis, Reduced(eqn, walk.outer), left_out=True)
        return [Value(axes)]
    walk.sums.extend(reduced)  # what a unit that is zero adds to it says `zeros`
    return [Value(axes, summed=(*value.summed, *reduced))]


@rule("reduce")
def _reduce_by_function(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    values, gone = operands[: len(eqn.outvars)], eqn.params["dimensions"]  # the rest are scalars
    axes = list(values[0].axes)
    for value in values[1:]:
        for k, axis in enumerate(value.axes):
            axes[k] = walk.labels.unify(axes[k], axis, "reduced axes that divide differently")
    for d in gone:
        walk.labels.flag_axis(axes[d], "reduced by 'reduce'")
    return [Value(tuple(axis for d, axis in enumerate(axes) if d not in gone)) for _ in values]


@rule(*CUMULATIVE)
def _along(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    reason = f"an axis of '{eqn.primitive.name}'"
    walk.labels.pin_axis(operands[0].axes[eqn.params["axis"]], reason)
    return [Value(operands[0].axes)]


@rule("sort")
def _sort(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    d, out = eqn.params["dimension"], []
    axes = list(operands[0].axes)
    for value in operands:
        for k, axis in enumerate(value.axes):
            axes[k] = walk.labels.unify(axes[k], axis, "sorted axes that divide differently")
    walk.labels.pin_axis(axes[d], "an axis that is sorted")
    gone, axes[d] = axes[d], walk.pinned_axes((axis_size(axes[d]),), "an axis that is sorted")[0]
    for value in operands:  # places along it, as of argsort, are no less numbers
        index = Index((gone,), spoiled=True) if value.counts == d else None
        out.append(Value(tuple(axes), index=index))
    return out


@rule(*WINDOWS, "select_and_gather_add", "select_and_scatter_add")
def _reduce_window(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    name, shape, p = eqn.primitive.name, eqn.outvars[0].aval.shape, eqn.params
    if name.startswith("select"):  # gradients of pooling, seldom in a forward pass
        reason = f"reaches '{name}'"
        for value in operands:
            walk.pin(value, reason)
        return [Value(walk.pinned_axes(shape, reason)) for _ in eqn.outvars]
    count = len(eqn.outvars)
    out = []
    for value in operands[:count]:
        axes = []
        for d, axis in enumerate(value.axes):
            steps = (p["window_dimensions"][d], p["window_strides"][d], p["base_dilation"][d])
            if steps == (1, 1, 1) and p["padding"][d] == (0, 0):
                axes.append(axis)
            else:
                walk.labels.pin_axis(axis, "an axis of a pooling window")
                axes.append(walk.pinned_axes((shape[d],), "an axis of a pooling window")[0])
        out.append(Value(tuple(axes)))
    return out
