"""Choosing among the positions of an axis by their values: the experts of a router, a codebook.

`top_k`, `argmax` and `argmin` give positions on an axis. Of a unit that is not there no position is
ever given: it is left out of the choice. The positions of the others are then counted among those
that are left, which is right wherever a position only says where to look: in a gather, compared
with another position or with 0, 1, 2, ... along the same axis (one_hot), sorted. Used as a number
in any other way it pins the axis (`Walk.as_number`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.values import SPOILED, Index, Value, Walk, follows, rule

_MOVES = """
reshape transpose squeeze broadcast_in_dim rev slice tile copy copy_p stop_gradient name
optimization_barrier device_put sharding_constraint reshard pcast pvary sort gather dynamic_slice
"""
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
CHOICES = ("top_k", "argmax", "argmin")


def _bounds(dtype: Any) -> tuple[Any, Any]:
    """The lowest and the highest number of a dtype."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return -np.inf, np.inf
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return False, True


def _lowest(dtype: Any) -> Any:
    return _bounds(dtype)[0]


def _highest(dtype: Any) -> Any:
    return _bounds(dtype)[1]


# What a position holds, by dtype, that a reduction or choice is to leave out.
LEFT_OUT: dict[str, Callable[[Any], Any]] = {
    "reduce_sum": lambda dtype: 0,
    "reduce_prod": lambda dtype: 1,
    "reduce_max": _lowest,
    "reduce_min": _highest,
    "reduce_and": lambda dtype: -1 if jnp.issubdtype(dtype, jnp.integer) else True,
    "reduce_or": lambda dtype: 0,
    "reduce_xor": lambda dtype: 0,
    "argmax": _lowest,
    "argmin": _highest,
    "top_k": _lowest,
}


def reduced_axes(eqn: Any) -> tuple[int, ...]:
    """The axes that a reduction or choice goes over."""
    if eqn.primitive.name == "top_k":
        return (eqn.params.get("axis", -1) % eqn.invars[0].aval.ndim,)
    return tuple(eqn.params["axes"])


@rule("argmax", "argmin")
def _arg(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), (d,) = operands, reduced_axes(eqn)
    walk.labels.choose_axis(value.axes[d], eqn.primitive.name, 1)
    axes = tuple(axis for k, axis in enumerate(value.axes) if k != d)
    return [Value(axes, index=Index((value.axes[d],)))]


@rule("top_k")
def _top_k(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    axes, k = operands[0].axes, eqn.params["k"]
    (d,) = reduced_axes(eqn)
    walk.labels.choose_axis(axes[d], "top_k", k)
    kept = walk.pinned_axes((k,), "an axis of 'top_k'")
    out = (*axes[:d], *kept, *axes[d + 1 :])
    return [Value(out), Value(out, index=Index((axes[d],)))]


def chosen_dims(
    walk: Walk, indices: Value, coordinates: Sequence[int], single: Collection[int]
) -> dict[int, Axis]:
    """The axes of an array that are looked up at chosen positions, and whose positions these are.

    Args:
      walk: the analysis.
      indices: of a gather or scatter; coordinates are along its last axis.
      coordinates: the array's axis for each of them.
      single: the array's axes of which one position is taken.
    """
    if indices.index is None:
        return {}
    found = dict(zip(coordinates, indices.index.axes, strict=False))
    fits = len(indices.index.axes) == len(coordinates) and not indices.index.spoiled
    if not fits or not all(d in single for d, axis in found.items() if axis is not None):
        walk.as_number(indices, "a place that is more than one position")
        return {}
    return {d: axis for d, axis in found.items() if axis is not None}


def is_position(value: Value) -> bool:
    """Whether the entries of an array are positions on one axis, and nothing was added to them."""
    return value.index is not None and len(value.index.axes) == 1 and not value.index.spoiled


@follows(*_MOVES.split())
def _moved(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Each result has the entries of an operand."""
    moved = []
    for value, result in zip(operands, results, strict=False):
        index = value.index
        if index and len(index.axes) > 1:
            walk.as_number(value, f"'{eqn.primitive.name}'")
            index = None
        moved.append(dataclasses.replace(result, index=index))
    return moved


@follows(*(ELEMENTWISE - {"convert_element_type", "copy", "copy_p", "name", "stop_gradient"}))
def _numbers(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Positions are numbers here: what stays of them, and of axes that other numbers count."""
    name = eqn.primitive.name
    for value in operands:
        walk.as_number(value, f"'{name}'")
        if value.index is None and (value.const is not None or value.counts is not None):
            for axis, result in zip(value.axes, results[0].axes, strict=False):
                if axis_size(axis) > 1:
                    walk.labels.pin_axis(result, f"its positions are compared in '{name}'")
    if name in _COMPARISONS:
        return results
    return [dataclasses.replace(results[0], index=SPOILED)]


@follows("convert_element_type")
def _converted(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.integer):
        return _moved(walk, eqn, operands, results)
    return _numbers(walk, eqn, operands, results)


@follows("concatenate")
def _concatenate(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Coordinates side by side, or more positions on one axis."""
    along = eqn.params["dimension"]
    last = along == len(results[0].axes) - 1
    plain = all(v.index is None or is_position(v) for v in operands)
    if plain and last and all(axis_size(v.axes[along]) == 1 for v in operands):
        columns = tuple(v.index.axes[0] if v.index else None for v in operands)
        return [dataclasses.replace(results[0], index=Index(columns))]
    if plain and all(v.index for v in operands):
        return [dataclasses.replace(results[0], index=_common(walk, operands))]
    return _numbers(walk, eqn, operands, results)


def _common(walk: Walk, values: list[Value]) -> Index:
    """Of positions on several axes that are one, or of different sizes and then stay whole."""
    first = values[0].index.axes[0]
    for value in values[1:]:
        other = value.index.axes[0]
        if axis_size(other) == axis_size(first):
            walk.labels.unify(first, other, "positions on axes that divide differently")
        else:
            walk.as_number(values[0], "those of an axis of another size")
            walk.as_number(value, "those of an axis of another size")
    return values[0].index


@follows("add")
def _shifted(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Numpy's indexing adds the size of the axis, for positions below zero, and selects."""
    (value, *others) = [v for v in operands if v.index]
    (number,) = [v for v in operands if v is not value] or [value]
    if others or number.const is None or not is_position(value):
        return _numbers(walk, eqn, operands, results)
    return [dataclasses.replace(results[0], index=Index(value.index.axes, spoiled=True))]


@follows("select_n")
def _selected(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """One of the cases, where it is known which; else positions that are all on one axis."""
    which, *cases = operands
    walk.as_number(which, "a selection")
    if which.const is not None and (np.unique(which.const).size == 1):
        (case,) = np.unique(which.const).astype(int)
        return [dataclasses.replace(results[0], index=cases[case].index)]
    if all(map(is_position, cases)):
        return [dataclasses.replace(results[0], index=_common(walk, cases))]
    return _numbers(walk, eqn, operands, results)


@follows("max", "min")
def _bounded(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """The larger of a position and of a number below all of them is the position."""
    if all(map(is_position, operands)):
        return [dataclasses.replace(results[0], index=_common(walk, operands))]
    (value, *_) = [v for v in operands if v.index]
    (number,) = [v for v in operands if v is not value] or [value]
    low = number.const is not None and bool((number.const <= 0).all())
    if low and is_position(value) and eqn.primitive.name == "max":
        return [dataclasses.replace(results[0], index=value.index)]
    return _numbers(walk, eqn, operands, results)


@follows(*_COMPARISONS)
def _compared(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """With positions on the same axis: what is left of them is in the same order."""
    name, (result,) = eqn.primitive.name, results
    if all(map(is_position, operands)):
        _common(walk, operands)
        return results
    (value, *_) = [v for v in operands if v.index]
    (number,) = [v for v in operands if v is not value] or [value]
    if is_position(value) and number.const is not None and (number.const <= 0).all():
        known = _below(name if value is operands[0] else _SWAPPED[name], number.const)
        if known is not None:
            return [dataclasses.replace(result, const=np.broadcast_to(known, _shape(result)))]
    d = number.counts
    if is_position(value) and d is not None:
        (axis,) = value.index.axes
        if axis_size(axis) == axis_size(number.axes[d]) == axis_size(result.axes[d]):
            walk.labels.unify(axis, number.axes[d], "positions that divide differently")
            return results
    return _numbers(walk, eqn, operands, results)


_SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}


def _below(name: str, bound: np.ndarray) -> bool | None:
    """Whether all positions, which are 0 or more, compare so with numbers that are 0 or less."""
    if name in ("lt", "ge"):
        return name == "ge"
    if (bound < 0).all():
        return name in ("gt", "ne")
    return None


def _shape(value: Value) -> tuple[int, ...]:
    return tuple(map(axis_size, value.axes))
