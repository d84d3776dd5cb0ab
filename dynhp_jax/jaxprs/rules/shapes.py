"""Primitives that move, split, join or repeat positions without mixing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynhp_jax.jaxprs.atoms import Digit
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.elementwise import REPEATED
from dynhp_jax.jaxprs.values import Value, Walk, rule


@rule("transpose")
def _transpose(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    order = eqn.params["permutation"]
    const = operands[0].const
    return [
        Value(
            tuple(operands[0].axes[d] for d in order),
            None if const is None else const.transpose(order),
        )
    ]


@rule("squeeze")
def _squeeze(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), gone = operands, set(eqn.params["dimensions"])
    for d in gone:
        walk.labels.pin_axis(value.axes[d], "an axis of size one that is squeezed away")
    axes = tuple(axis for d, axis in enumerate(value.axes) if d not in gone)
    const = None if value.const is None else value.const.squeeze(tuple(gone))
    return [Value(axes, const)]


@rule("stack")
def _stack(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    d, axes = eqn.params["axis"], list(operands[0].axes)
    for value in operands[1:]:
        for k, axis in enumerate(value.axes):
            axes[k] = walk.labels.unify(axes[k], axis, "stacked axes that divide differently")
    axes.insert(d, walk.pinned_axes((len(operands),), "an axis along which arrays are stacked")[0])
    consts = [v.const for v in operands]
    return [Value(tuple(axes), None if any(c is None for c in consts) else np.stack(consts, d))]


@rule("unstack")
def _unstack(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), d = operands, eqn.params["axis"]
    walk.labels.pin_axis(value.axes[d], "an axis that is unstacked")
    axes = (*value.axes[:d], *value.axes[d + 1 :])
    consts = [None] * len(eqn.outvars)
    if value.const is not None:
        consts = list(np.moveaxis(value.const, d, 0))
    return [Value(axes, const) for const in consts]


@rule("broadcast_in_dim")
def _broadcast_in_dim(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, shape = operands[0], eqn.params["shape"]
    source = {d: k for k, d in enumerate(eqn.params["broadcast_dimensions"])}
    axes = []
    for d, size in enumerate(shape):
        axis = value.axes[source[d]] if d in source else None
        if axis is not None and axis_size(axis) != size:
            walk.labels.pin_axis(axis, REPEATED)
            axis = None
        if axis is None:
            axis = (walk.labels.fresh(size),)
        axes.append(axis)
    const = value.const
    if const is not None and math.prod(shape) <= 1 << 16:
        at = [1] * len(shape)
        for d, k in source.items():
            at[d] = const.shape[k]
        const = np.broadcast_to(const.reshape(at), shape)
    else:
        const = None
    return [Value(tuple(axes), const)]


@rule("tile")
def _tile(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, reps = operands[0], eqn.params["reps"]
    axes = [
        axis if n == 1 else (walk.labels.fresh(n), *axis)
        for n, axis in zip(reps, value.axes, strict=True)
    ]
    return [Value(tuple(axes), None if value.const is None else np.tile(value.const, reps))]


@rule("reshape")
def _reshape(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, shape = operands[0], eqn.params["new_sizes"]
    order = eqn.params["dimensions"] or range(len(value.axes))
    const = None if value.const is None else value.const.transpose(order).reshape(shape)
    return [Value(reshape_axes(walk, tuple(value.axes[d] for d in order), shape), const)]


def reshape_axes(walk: Walk, axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Regroups the digits of the old axes, refining them where the new axes ask for it."""
    labels = walk.labels
    if math.prod(shape) == 0:
        return walk.pinned_axes(shape, "an empty array")
    old = [list(labels.resolve(axis)) for axis in axes]
    out: list[Axis | None] = [None] * len(shape)
    for i0, i, j0, j in stretches([axis_size(axis) for axis in axes], shape):
        _regroup(walk, old[i0:i], shape[j0:j], out, j0)
    # An array that has lost this axis could not be reshaped to have it.
    new = "an axis of size one that a reshape adds"
    return tuple(walk.pinned_axes((1,), new)[0] if axis is None else axis for axis in out)


def stretches(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(i0, i, j0, j), ...: the shortest runs old[i0:i] and new[j0:j] of axes with equal products.

    Axes of size one belong to the run on their left.
    """
    found = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0, have, want = i, j, 1, 1
        while i == i0 < len(old) or have < want:
            have, i = have * old[i], i + 1
            while j == j0 < len(new) or want < have:
                want, j = want * new[j], j + 1
        while i < len(old) and old[i] == 1:
            i += 1
        while j < len(new) and new[j] == 1:
            j += 1
        found.append((i0, i, j0, j))
    return found


def _regroup(walk: Walk, old: list[list], sizes: tuple[int, ...], out: list, at: int) -> None:
    labels = walk.labels
    large = [d for axis in old for d in axis if d.size != 1]
    ones = [d for axis in old for d in axis if d.size == 1]
    failed = False
    for k, size in enumerate(sizes):
        if size == 1:
            continue
        digits: list = []
        need = size
        while need > 1 and not failed:
            digit = large[0]
            if need % digit.size == 0:
                digits.append(large.pop(0))
                need //= digit.size
            elif digit.size % need == 0:
                pair = labels.split(digit, need, digit.size // need)
                failed = pair is None
                if pair is not None:
                    large[:1] = pair
            else:
                failed = True
        if failed:
            break
        out[at + k] = tuple(digits)
    if failed:
        _regroup_end(walk, old, sizes, out, at)
        return
    # Axes of size one keep their atoms from the right, as broadcasting aligns them; atoms without
    # an axis of their own go where all positions depend on them.
    for k in reversed(range(len(sizes))):
        if sizes[k] == 1 and ones:
            out[at + k] = (ones.pop(),)
    left = [digit for digit in ones if not labels.settled(digit)]
    if left and sizes:
        k = max(range(len(sizes)), key=lambda k: (sizes[k] > 1, k))
        out[at + k] = (*out[at + k], *left)
    else:
        for digit in left:
            labels.pin(digit, "an axis of size one that is reshaped away")


def _regroup_end(walk: Walk, old: list[list], sizes: tuple[int, ...], out: list, at: int) -> None:
    """Where the axes divide differently: what they have in common at their end can be cut."""
    labels, reason = walk.labels, "a reshape that cuts across units"
    digits = [digit for axis in old for digit in labels.resolve(tuple(axis))]
    ones, large = ([d for d in digits if (d.size == 1) == one] for one in (True, False))
    last = max(k for k, size in enumerate(sizes) if size > 1)
    found = labels.end(large[-1], sizes[last])
    end: Axis = ()
    if found is not None:
        large[-1:], end = found[0], found[1:]
    labels.pin_axis((*ones, *large), reason)
    for k, size in enumerate(sizes):
        here = end if k == last else ()
        out[at + k] = (*walk.pinned_axes((size // axis_size(here),), reason)[0], *here)


@rule("rev")
def _rev(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    (value,), dims = operands, eqn.params["dimensions"]
    axes = [
        tuple(digit[::-1] for digit in axis) if d in dims else axis
        for d, axis in enumerate(value.axes)
    ]
    return [Value(tuple(axes), None if value.const is None else np.flip(value.const, dims))]


@rule("concatenate")
def _concatenate(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    d = eqn.params["dimension"]
    labels = walk.labels
    axes = []
    for k in range(len(operands[0].axes)):
        parts = [value.axes[k] for value in operands]
        if k != d:
            axis = parts[0]
            for other in parts[1:]:
                axis = labels.unify(axis, other, "concatenated axes that divide differently")
        else:
            axis = join(walk, parts)
        axes.append(axis)
    consts = [v.const for v in operands]
    const = None if any(c is None for c in consts) else np.concatenate(consts, d)
    return [Value(tuple(axes), const)]


def join(walk: Walk, parts: list[Axis]) -> Axis:
    """The axis that holds the positions of several axes one after the other."""
    labels = walk.labels
    parts = [labels.resolve(axis) for axis in parts]
    inner = parts[0][1:]

    def same(axis: Axis) -> bool:
        return [d.size for d in axis] == [d.size for d in inner] and all(
            np.array_equal(labels.find(p), labels.find(q)) for p, q in zip(axis, inner, strict=True)
        )

    if all(same(part[1:]) for part in parts):  # [a, k] and [b, k]: one digit a + b, then k
        return (np.concatenate([part[0] for part in parts]), *inner)
    return (np.concatenate([labels.flatten(part) for part in parts]),)


def take(walk: Walk, axis: Axis, positions: np.ndarray) -> Axis:
    """The axis that holds some positions of another, in the given order."""
    axis = walk.labels.resolve(axis)
    if np.array_equal(positions, np.arange(axis_size(axis))):
        return axis
    # Whole stretches of the fast digits: only the first digit is indexed.
    inner = axis_size(axis[1:])
    if inner and positions.size % inner == 0:
        rows = positions.reshape(-1, inner)
        if (rows == rows[:, :1] // inner * inner + np.arange(inner)).all():
            return (_picked(walk, axis[0], rows[:, 0] // inner), *axis[1:])
    return (_picked(walk, walk.labels.flatten(axis), positions),)


def _picked(walk: Walk, digit: Digit, entries: np.ndarray) -> Digit:
    picked = digit[entries]
    if np.unique(entries).size == entries.size:
        return picked
    return walk.labels.compose(picked, walk.labels.fresh(entries.size))  # copies can go one by one


@rule("slice")
def _slice(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, p = operands[0], eqn.params
    strides = p["strides"] or (1,) * len(value.axes)
    axes, at = [], []
    for axis, start, limit, stride in zip(
        value.axes, p["start_indices"], p["limit_indices"], strides, strict=True
    ):
        at.append(slice(start, limit, stride))
        positions = np.arange(start, limit, stride)
        axes.append(take(walk, axis, positions))
    return [Value(tuple(axes), None if value.const is None else value.const[tuple(at)])]


@rule("split")
def _split(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, d = operands[0], eqn.params["axis"]
    out, start = [], 0
    for size in eqn.params["sizes"]:
        axis = take(walk, value.axes[d], np.arange(start, start + size))
        out.append(Value((*value.axes[:d], axis, *value.axes[d + 1 :])))
        start += size
    return out


@rule("pad")
def _pad(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    value, axes = operands[0], []
    for axis, (low, high, interior) in zip(value.axes, eqn.params["padding_config"], strict=True):
        if low == high == interior == 0:
            axes.append(axis)
        elif interior == 0 and low >= 0 and high >= 0:
            # Rows of padding are units of their own: they go with what they are added to.
            ends = [(walk.labels.fresh(n),) for n in (low, high)]
            parts = [p for p in (ends[0], axis, ends[1]) if axis_size(p)]
            axes.append(join(walk, parts))
        else:
            reason = "negative or interior padding"
            walk.labels.pin_axis(axis, reason)
            size = eqn.outvars[0].aval.shape[len(axes)]
            axes.append(walk.pinned_axes((size,), reason)[0])
    return [Value(tuple(axes))]


@rule("iota")
def _iota(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    shape, d = eqn.params["shape"], eqn.params["dimension"]
    const = None
    if math.prod(shape) <= 1 << 16:
        at = [1] * len(shape)
        at[d] = shape[d]
        const = np.broadcast_to(np.arange(shape[d], dtype=eqn.params["dtype"]).reshape(at), shape)
    return [Value(walk.labels.fresh_axes(shape), const, counts=d)]
