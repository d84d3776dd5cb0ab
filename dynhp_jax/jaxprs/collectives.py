"""Collectives inside `shard_map`: every device has the same units, at the same positions.

A model is analysed as one device sees it, so that positions of its arrays are units of that
device's parameters; what is added up or passed on between devices meets its own position there.
"""

from __future__ import annotations

from typing import Any

from dynhp_jax.jaxprs.walk import Value, Walk, rule

BY_POSITION = ("psum", "psum_invariant", "pmax", "pmin", "ppermute")


@rule(*BY_POSITION)
def _by_position(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    # A number among the names of mesh axes is an axis of the array, over which it reduces, too.
    gone = [d for d in eqn.params.get("axes", ()) if isinstance(d, int)]
    for value in operands:
        for d in gone:
            walk.labels.flag_axis(value.axes[d], f"reduced by '{eqn.primitive.name}'")
    return [
        Value(tuple(axis for d, axis in enumerate(value.axes) if d not in gone))
        for value in operands
    ]


@rule("all_gather")
def _all_gather(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), d = operands, eqn.params["all_gather_dimension"]
    axes, reason = list(value.axes), "an axis along which 'all_gather' joins what devices have"
    if eqn.params["tiled"]:
        walk.labels.pin_axis(axes.pop(d), reason)
    axes[d:d] = walk.pinned_axes(eqn.outvars[0].aval.shape[d : d + 1], reason)
    return [Value(tuple(axes))]


@rule("axis_index")
def _axis_index(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    return [Value(())]
