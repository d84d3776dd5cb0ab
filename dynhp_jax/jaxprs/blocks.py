"""Units that may go one by one in each of several blocks, as long as equally many stay in each.

A reshape of six heads into [2, 3] makes a head of two atoms: that of its block and that of its
place in the block. An array of [2, 3] stays one if each block loses one head, whichever. Where no
array has places without their blocks, nothing joins the same places of different blocks, and heads
may be ordered anew in each block: the model with any heads left is the one of which the last places
went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dynhp_jax.jaxprs.atoms import Digit
from dynhp_jax.jaxprs.labels import Axis, Labels, axis_size
from dynhp_jax.jaxprs.repeated import NONE, Dims, Repeated
from dynhp_jax.jaxprs.values import Analysis, Value

_MADE_WHOLE = ("iota", "random_bits")  # their positions are taken after they were made


class Blocks(NamedTuple):
    """The two digits of an axis of units: blocks, and the places in each of them."""

    outer: Digit
    inner: Digit

    def on(self, labels: Labels, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """(positions, units) of an axis with blocks and places; place j of block i is i * n + j."""
        positions, atoms = labels.axis_pairs(axis)
        numbers = []
        for digit in self:
            known = np.full(len(labels), -1)
            known[digit] = np.arange(digit.size)
            at = np.full(axis_size(axis), -1)
            mine = known[atoms] >= 0
            at[positions[mine]] = known[atoms[mine]]
            numbers.append(at)
        there = np.flatnonzero((numbers[0] >= 0) & (numbers[1] >= 0))
        return there, numbers[0][there] * self.inner.size + numbers[1][there]

    def split_over(self, labels: Labels, axes: Sequence[Axis]) -> tuple[int, int] | None:
        """The axes that have the blocks and the places, if these are two."""
        held = [labels.axis_pairs(axis)[1] for axis in axes]
        inner = [d for d, atoms in enumerate(held) if np.isin(self.inner, atoms).any()]
        outer = [d for d, atoms in enumerate(held) if np.isin(self.outer, atoms).any()]
        if len(inner) == 1 and len(outer) == 1 and inner != outer:
            return outer[0], inner[0]
        return None


def joined(labels: Labels, axes: Sequence[Axis], every: Collection[Blocks]) -> Sequence[Axis]:
    """Axes of which those that have the blocks and the places of units are one."""
    for blocks in every:
        found = blocks.split_over(labels, axes)
        if found:
            both = (*axes[found[0]], *axes[found[1]])
            axes = (*(axis for d, axis in enumerate(axes) if d not in found), both)
    return axes


def digits_at(labels: Labels, axis: Axis, positions: np.ndarray) -> Axis | None:
    """The digits of some positions of an axis, side by side; None if they are not."""
    axis = labels.resolve(axis)
    if positions.size == axis_size(axis):
        return axis
    if len(axis) > 1 or (np.diff(positions) != 1).any():
        return None
    return labels.resolve((axis[0][positions],))


def with_inner(labels: Labels, axis: Axis, inner: np.ndarray) -> Blocks | None:
    """Blocks of which these atoms are the places, on an axis."""
    if len(axis) == 1 and (labels.parts(axis[0])[:, 0] < 0).all():  # no position has two atoms
        return None
    positions, atoms = labels.axis_pairs(axis)
    digits = digits_at(labels, axis, np.unique(positions[np.isin(atoms, inner)]))
    found = [labels.find(digit) for digit in digits or ()]
    for outer, place in zip(found, found[1:], strict=False):
        if np.array_equal(np.sort(place), np.sort(inner)):
            bare = (labels.parts(outer)[:, 0] < 0).all() and outer.size > 1
            distinct = np.unique(outer).size == outer.size and np.unique(place).size == place.size
            return Blocks(outer, place) if bare and distinct else None
    return None


def with_units(labels: Labels, axis: Axis, index: np.ndarray, blocks: int) -> Blocks | None:
    """The blocks of which unit u is place u % n of block u // n, with the positions index[u]."""
    order = np.argsort(index, axis=None)
    units, positions = np.divmod(order, index.shape[1])[0], index.reshape(-1)[order]
    digits = digits_at(labels, axis, positions) or ()
    sizes = tuple(digit.size for digit in digits)
    at = np.unravel_index(np.arange(positions.size), sizes) if sizes else ()
    per = index.shape[0] // blocks
    for d in range(len(sizes) - 1):
        if sizes[d : d + 2] == (blocks, per) and (at[d] * per + at[d + 1] == units).all():
            return Blocks(labels.find(digits[d]), labels.find(digits[d + 1]))
    return None


class _Held(NamedTuple):
    """An array, whether it is made whole, and then the axes along which it is the same."""

    value: Value
    whole: bool
    same: Dims


class Arrays:
    """The arrays of a jaxpr, to be asked many times which of them have some atoms."""

    def __init__(self, analysis: Analysis):
        self._values = list(_values(analysis, Repeated(analysis)))
        self._digits: dict[int, Digit] = {}
        self._holders: dict[int, set[int]] = {}  # by digit, which are shared by many arrays
        for k, (value, _, _) in enumerate(self._values):
            for axis in value.axes:
                for digit in axis:
                    self._digits[id(digit)] = digit
                    self._holders.setdefault(id(digit), set()).add(k)

    def holding(self, atoms: np.ndarray) -> Iterator[_Held]:
        """Those with any of the atoms (bool[all])."""
        holders = (self._holders[k] for k, digit in self._digits.items() if atoms[digit].any())
        for k in set().union(*holders):
            yield self._values[k]


def may_differ(labels: Labels, arrays: Arrays, blocks: Blocks) -> bool:
    """Whether blocks may lose other places: no array has places without their blocks.

    Nor may an array that is made whole, of which positions are taken, have them.
    """
    has_inner, has_outer = labels.dead_mask(blocks.inner), labels.dead_mask(blocks.outer)
    return all(
        _in_order(labels, value, blocks, has_inner, has_outer)
        and (not whole or _alike(value, same, has_inner))
        for value, whole, same in arrays.holding(has_inner)
    )


def _values(analysis: Analysis, repeated: Repeated) -> Iterator[_Held]:
    """Every array of a jaxpr as it is made and as it is used.

    Constants are made whole: each reader takes its positions.
    """

    def held(atom: Any, value: Value, made_whole: bool = False) -> _Held:
        whole = made_whole or analysis.value(atom).is_constant
        return _Held(value, whole, repeated.dims(analysis, atom) if whole else NONE)

    for var in (*analysis.jaxpr.constvars, *analysis.jaxpr.invars):
        yield held(var, analysis.values[var])
    for index, eqn in enumerate(analysis.jaxpr.eqns):
        yield from map(held, eqn.invars, analysis.operands[index])
        for var in eqn.outvars:
            yield held(var, analysis.values[var], eqn.primitive.name in _MADE_WHOLE)
        for body in analysis.inner.get(index, ()):
            yield from _values(body, repeated)
    yield from map(held, analysis.jaxpr.outvars, analysis.outputs)


def _in_order(
    labels: Labels, value: Value, blocks: Blocks, has_inner: np.ndarray, has_outer: np.ndarray
) -> bool:
    """Whether an array has blocks and places once each, on one axis the blocks first."""
    seen: list[tuple[int, int, bool]] = []  # axis, digit, whether it is the places
    for d, axis in enumerate(value.axes):
        held = np.zeros(1, bool)
        for digit in axis:
            held = (held[:, None] | has_inner[digit] | has_outer[digit]).reshape(-1)
        if not held.any():
            continue
        inside = np.zeros(1, bool)
        for digit in axis:
            inside = (inside[:, None] | has_inner[digit]).reshape(-1)
        part = inside if inside.any() else held
        for k, digit in enumerate(digits_at(labels, axis, np.flatnonzero(part)) or ((),)):
            if len(digit) == 0:
                return False
            if has_inner[digit].any() or has_outer[digit].any():
                found = labels.find(digit)
                if not any(np.array_equal(found, each) for each in blocks):
                    return False
                seen.append((d, k, bool(has_inner[digit].any())))
    if [place for _, _, place in sorted(seen, key=lambda each: each[2])] != [False, True]:
        return False
    (outer,), (inner,) = ([s for s in seen if s[2] == place] for place in (False, True))
    return outer[0] != inner[0] or outer[1] < inner[1]


def _alike(value: Value, same: Dims, has_inner: np.ndarray) -> bool:
    """Whether an array is known to be the same at all places."""
    return all(
        d in same
        for d, axis in enumerate(value.axes)
        if any(has_inner[digit].any() for digit in axis)
    )
