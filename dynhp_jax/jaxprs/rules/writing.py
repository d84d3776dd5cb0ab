"""Writing into arrays at given places: scatters and updates of windows.

Axes that are written whole survive together, position by position. Where the places along an axis
are known beforehand, what is written goes with the positions that it is written to; where they are
computed, the axis stays whole.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.choices import chosen_dims
from dynhp_jax.jaxprs.rules.indexing import window_places
from dynhp_jax.jaxprs.rules.shapes import take
from dynhp_jax.jaxprs.values import SPOILED, Value, Walk, follows, rule

SCATTERS = (
    "scatter",
    "scatter-add",
    "scatter-sub",
    "scatter-mul",
    "scatter-min",
    "scatter-max",
)


def window_axes(numbers: Any, rank: int) -> dict[int, int]:
    """Axes of the operand of a scatter that the updates have, too -> which axes of these."""
    alone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    own = [d for d in range(rank) if d not in alone]
    return dict(zip(own, numbers.update_window_dims, strict=True))


def listed_axes(numbers: Any, rank: int) -> list[int]:
    """The axes of the updates of a scatter along which its indices are listed, in their order."""
    return [d for d in range(rank) if d not in numbers.update_window_dims]


def written_places(eqn: Any, indices: Value) -> dict[int, np.ndarray]:
    """The positions that a scatter is known to write, by indexed axis of its operand.

    None of any axis unless they are known and within bounds for all, and either one window is
    written, or single positions of one axis are listed.
    """
    numbers, const = eqn.params["dimension_numbers"], indices.const
    indexed = numbers.scatter_dims_to_operand_dims
    if const is None or numbers.operand_batching_dims or not const.size:
        return {}
    shape, updates = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    if const.ndim == 1:
        at = window_axes(numbers, len(shape))
        sizes = [updates[at[d]] if d in at else 1 for d in indexed]
        places = [start + np.arange(n) for start, n in zip(const.tolist(), sizes, strict=True)]
    elif const.ndim == 2 and indexed == numbers.inserted_window_dims and len(indexed) == 1:
        places = [const[:, 0].astype(np.int64)]
    else:
        return {}
    found = dict(zip(indexed, places, strict=True))
    inside = all(((p >= 0) & (p < shape[d])).all() for d, p in found.items())
    return found if inside else {}


@rule(*SCATTERS)
def _scatter(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, indices, updates = operands
    numbers, labels = eqn.params["dimension_numbers"], walk.labels
    places, axes = written_places(eqn, indices), list(value.axes)
    labels.pin_axis(indices.axes[-1], "coordinates of a scatter")
    batched = numbers.scatter_indices_batching_dims
    for k, d in enumerate(listed_axes(numbers, len(updates.axes))):
        part, listed = updates.axes[d], indices.axes[k]
        if places:
            (at,) = places
            axes[at] = _tied(walk, axes[at], part, places[at])
            continue
        labels.unify(part, listed, "indices that divide differently")
        if k in batched:
            at = numbers.operand_batching_dims[batched.index(k)]
            axes[at] = labels.unify(axes[at], part, "batched scatter")
        else:
            labels.pin_axis(part, "written to computed places")
    indexed, alone = numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims
    chosen = chosen_dims(walk, indices, indexed, alone)
    window = window_axes(numbers, len(axes))
    for d, part in window.items():
        axes[d] = _written(walk, axes[d], updates.axes[part], places.get(d))
    if not (places and len(indices.axes) > 1):  # else their one axis has been dealt with
        for d in alone:
            if d in chosen:
                axes[d] = labels.unify(axes[d], chosen[d], "positions that divide differently")
            else:
                axes[d] = _written(walk, axes[d], None, places.get(d))
    return [Value(tuple(axes))]


@follows(*SCATTERS)
def _positions(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Where to write is asked of the indices; positions that are written are mere numbers."""
    value, _, updates = operands
    for each in (value, updates):
        walk.as_number(each, f"'{eqn.primitive.name}'")
    if value.index or updates.index:
        return [dataclasses.replace(results[0], index=SPOILED)]
    return results


@rule("dynamic_update_slice")
def _dynamic_update_slice(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, update, *starts = operands
    places = window_places(starts, *(var.aval.shape for var in eqn.invars[:2]))
    return [
        Value(
            tuple(
                _written(walk, axis, part, places.get(d))
                for d, (axis, part) in enumerate(zip(value.axes, update.axes, strict=True))
            )
        )
    ]


def _written(walk: Walk, axis: Axis, part: Axis | None, places: np.ndarray | None) -> Axis:
    """An axis of the array that is written into.

    Args:
      walk: of the analysis.
      axis: the axis.
      part: that of the updates; None where they are one position.
      places: the positions that are written, if they are known.
    """
    labels = walk.labels
    if part is not None and axis_size(part) == axis_size(axis):
        return labels.unify(axis, part, "an update that divides differently")
    if part is not None and places is not None:
        return _tied(walk, axis, part, places)
    if places is not None:
        labels.pin(labels.flatten(labels.resolve(axis))[places], "one position that is written to")
        return axis
    for each in (axis, part or ()):
        labels.pin_axis(each, "an update at a computed place")
    return axis


def _tied(walk: Walk, axis: Axis, part: Axis, places: np.ndarray) -> Axis:
    """The axis, of which these positions survive together with those of the updates."""
    labels = walk.labels
    axis = labels.resolve(axis)
    if np.unique(places).size == places.size:
        picked = take(walk, axis, places)
    else:  # an entry that is written several times goes with all that is written to it
        picked = (labels.flatten(axis)[places],)
    labels.unify(picked, part, "an update that divides differently")
    return axis
