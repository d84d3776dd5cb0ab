"""Where the numbers of a leaf are in an array that only moves them: by transposes and reshapes.

The position of a number in a leaf is written in digits of mixed radix, as that of a time is in
hours and minutes. A transpose or a reshape changes which axis a digit is on, never its weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Digit(NamedTuple):
    """Positions 0 to `size` - 1, which are `stride` numbers of the leaf apart."""

    size: int
    stride: int


Digits = tuple[Digit, ...]  # of one axis, the slowest first
Layout = tuple[Digits, ...]  # of an array, axis by axis


def of_leaf(shape: Sequence[int]) -> Layout:
    """The layout of a leaf itself.

    >>> of_leaf((2, 3))
    ((Digit(size=2, stride=3),), (Digit(size=3, stride=1),))
    """
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    return tuple(
        _joined([Digit(size, stride)]) for size, stride in zip(shape, strides, strict=True)
    )


def moved(eqn: Any, layout: Layout) -> Layout | None:
    """The layout of the result of an equation on an array, or None if it does more than move.

    Args:
      eqn: an equation with one operand, one of `jaxprs.values.MOVES`.
      layout: of its operand.
    """
    name, p = eqn.primitive.name, eqn.params
    if name == "transpose":
        return tuple(layout[d] for d in p["permutation"])
    if name == "squeeze":
        return tuple(digits for d, digits in enumerate(layout) if d not in p["dimensions"])
    if name == "reshape":
        return None if p["dimensions"] is not None else reshaped(layout, p["new_sizes"])
    if name == "broadcast_in_dim":
        source = dict(zip(p["broadcast_dimensions"], layout, strict=True))
        result = tuple(source.get(d, ()) for d in range(len(p["shape"])))
        sizes = tuple(math.prod(digit.size for digit in digits) for digits in result)
        return result if sizes == tuple(p["shape"]) else None  # repeated along an axis
    return layout  # of another type, or a copy


def reshaped(layout: Layout, sizes: Sequence[int]) -> Layout | None:
    """The layout after a reshape; None where an axis would hold a part of a digit.

    >>> reshaped(of_leaf((6,)), (2, 3))
    ((Digit(size=2, stride=3),), (Digit(size=3, stride=1),))
    """
    left = [digit for digits in layout for digit in digits]
    result = []
    for size in sizes:
        axis: list[Digit] = []
        while size > 1:
            digit = left.pop(0)
            if size % digit.size == 0:
                axis.append(digit)
                size //= digit.size
            elif digit.size % size == 0:  # the slower part of it
                rest = digit.size // size
                axis.append(Digit(size, digit.stride * rest))
                left.insert(0, Digit(rest, digit.stride))
                size = 1
            else:
                return None
        result.append(_joined(axis))
    return tuple(result)


def split(digits: Digits, size: int) -> tuple[Digits, Digits] | None:
    """The slower digits of an axis, of `size` positions together, and the faster ones."""
    whole = math.prod(digit.size for digit in digits)
    found = reshaped((digits,), (size, whole // size))
    return None if found is None else (found[0], found[1])


def _joined(digits: Sequence[Digit]) -> Digits:
    """Without digits of one position; neighbours that count on are one."""
    result: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        if result and result[-1].stride == digit.size * digit.stride:
            result[-1] = Digit(result[-1].size * digit.size, digit.stride)
        else:
            result.append(digit)
    return tuple(result)
