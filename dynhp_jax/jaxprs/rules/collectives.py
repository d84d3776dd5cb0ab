"""Collectives inside `shard_map`: every device has the same units, at the same positions.

A model is analysed as one device sees it, so that positions of its arrays are units of that
device's parameters; what is added up or passed on between devices meets its own position there.
Examples are other ones on other devices, unless `shard_map` knows better (`check_vma`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.values import Value, Walk, rule

BY_POSITION = ("psum", "psum_invariant", "pmax", "pmin", "ppermute")


def written(eqn: Any) -> str:
    """The collective as it is called in `jax.lax`."""
    return eqn.primitive.name.removesuffix("_invariant")


@rule(*BY_POSITION)
def _by_position(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,) = operands
    # A number among the names of mesh axes is an axis of the array, over which it reduces, too.
    gone = [d for d in eqn.params.get("axes", ()) if isinstance(d, int)]
    axes = _joined(walk, eqn, value, [value.axes[d] for d in gone])
    return [Value(tuple(axis for d, axis in enumerate(axes) if d not in gone))]


@rule("all_gather")
def _all_gather(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), d = operands, eqn.params["all_gather_dimension"]
    axes, reason = _joined(walk, eqn, value), "an axis along which 'all_gather' joins devices"
    if eqn.params["tiled"]:
        walk.labels.pin_axis(axes.pop(d), reason)
    axes[d:d] = walk.pinned_axes(eqn.outvars[0].aval.shape[d : d + 1], reason)
    return [Value(tuple(axes))]


@rule("axis_index")
def _axis_index(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    return [Value(())]


def _joined(walk: Walk, eqn: Any, value: Value, summed: Collection[Axis] = ()) -> list[Axis]:
    """The axes of what devices have together, one by one.

    Examples of several devices are no examples of this one. Units that are added up here and on
    other devices stay: how many there are in all is part of a mean, which a cut would not change.
    """
    for axis in (*value.summed, *summed):
        walk.labels.pin_axis(axis, f"'{written(eqn)}' joins sums over it of several devices")
    if _same_examples(eqn, walk.examples_vary):
        return list(value.axes)
    reason = "examples of several devices"
    return [
        walk.pinned_axes((axis_size(axis),), reason)[0] if walk.has_examples(axis) else axis
        for axis in value.axes
    ]


def _same_examples(eqn: Any, varying: Collection[str]) -> bool:
    """Whether all devices of a collective are known to have the same examples.

    What goes into a collective differs along its mesh axes; where that is not known of it, nothing
    is known of the examples either.
    """
    names = eqn.params.get("axes", eqn.params.get("axis_name"))
    names = {name for name in names if not isinstance(name, int)}
    return names <= eqn.invars[0].aval.mat.varying and not names & set(varying)
