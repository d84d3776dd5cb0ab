"""Gathers, dynamic slices and random bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.choices import chosen_dims, is_position
from dynhp_jax.jaxprs.rules.shapes import take
from dynhp_jax.jaxprs.values import Value, Walk, rule


def static_gather_axis(eqn: Any, indices: Value) -> int | None:
    """The operand axis that a gather indexes with constants known beforehand, if it is just one."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if indices.const is None or len(numbers.start_index_map) != 1:
        return None
    (d,) = numbers.start_index_map
    plain = numbers.collapsed_slice_dims == (d,) and sizes[d] == 1
    if not plain or numbers.operand_batching_dims or indices.const.ndim != 2:
        return None
    inside = (indices.const >= 0) & (indices.const < eqn.invars[0].aval.shape[d])
    return d if inside.all() else None


@rule("gather")
def _gather(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, indices = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    static = static_gather_axis(eqn, indices)
    batch: list[Axis] = list(indices.axes[:-1])
    walk.labels.pin_axis(indices.axes[-1], "coordinates of a gather")
    if static is not None:
        batch = [take(walk, value.axes[static], indices.const[:, 0])]
    for d, b in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        batch[b] = walk.labels.unify(value.axes[d], batch[b], "batched gather")
    single = [d for d, size in enumerate(sizes) if size == 1]
    chosen = chosen_dims(walk, indices, numbers.start_index_map, single)
    offset: list[Axis] = []
    for d, axis in enumerate(value.axes):
        if d == static or d in numbers.operand_batching_dims:
            continue
        if d in chosen:
            walk.labels.unify(axis, chosen[d], "a gather from an axis that divides differently")
            if d not in numbers.collapsed_slice_dims:
                offset.append(walk.pinned_axes((1,), "a window of a gather")[0])
            continue
        whole = sizes[d] == axis_size(axis)
        if d in numbers.collapsed_slice_dims:
            walk.labels.pin_axis(axis, "rows chosen by computed indices")
        elif whole:
            offset.append(axis)
            walk.role(value, "out", axis)
        else:
            walk.labels.pin_axis(axis, "a window chosen by computed indices")
            offset.append(walk.pinned_axes((sizes[d],), "a window of a gather")[0])
    rank = len(eqn.outvars[0].aval.shape)
    out = [offset.pop(0) if d in numbers.offset_dims else batch.pop(0) for d in range(rank)]
    # One place for all examples, such as a loop's counter: still a part of the leaf.
    sources = value.sources if len(indices.axes) == 1 else frozenset()
    return [Value(tuple(out), sources=sources)]


def window_places(
    starts: list[Value], shape: tuple[int, ...], sizes: tuple[int, ...]
) -> dict[int, np.ndarray]:
    """The positions of a window, by axis along which it is smaller and lies at a known place."""
    return {
        d: np.clip(start.const.item(), 0, size - n) + np.arange(n)
        for d, (start, size, n) in enumerate(zip(starts, shape, sizes, strict=True))
        if n != size and start.const is not None
    }


@rule("dynamic_slice")
def _dynamic_slice(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value, *starts), axes, sizes = operands, [], eqn.params["slice_sizes"]
    places = window_places(starts, eqn.invars[0].aval.shape, sizes)
    for d, (axis, size, at) in enumerate(zip(value.axes, sizes, starts, strict=True)):
        if axis_size(axis) == size:
            axes.append(axis)
        elif d in places:
            axes.append(take(walk, axis, places[d]))
        elif size == 1 and is_position(at):
            walk.labels.unify(axis, at.index.axes[0], "a slice of an axis that divides differently")
            axes.append(walk.pinned_axes((1,), "a window at a computed place")[0])
        else:
            walk.as_number(at, "'dynamic_slice'")
            walk.labels.pin_axis(axis, "a window at a computed place")
            axes.append(walk.pinned_axes((size,), "a window at a computed place")[0])
    # Where the window lies is the same for all examples, so that it is a part of the leaf.
    return [Value(tuple(axes), sources=value.sources)]


@rule("random_bits")
def _random_bits(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    keys = operands[0].axes
    return [Value((*keys, *walk.labels.fresh_axes(eqn.params["shape"])))]


@rule("rng_bit_generator")
def _rng_bit_generator(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    walk.pin(operands[0], "a random key")
    keys = walk.pinned_axes(eqn.outvars[0].aval.shape, "a random key")
    return [Value(keys), Value(walk.labels.fresh_axes(eqn.params["shape"]))]


@rule(
    "random_wrap", "random_unwrap", "random_seed", "random_fold_in", "random_split", "random_clone"
)
def _random_keys(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    # Keys are never units; whatever flows into one stays whole.
    for value in operands:
        walk.pin(value, "a random key")
    return [Value(walk.pinned_axes(var.aval.shape, "a random key")) for var in eqn.outvars]
