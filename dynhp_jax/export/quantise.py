"""Integers in the place of numbers, after training: 8 bits for values and kernels, 32 for sums.

A value v stands for scale * (v - zero), with one scale and zero for each value of the graph, from
the smallest and the largest number that calibration examples give it. Kernels are symmetric, with a
scale for every unit. A layer's sum of products of integers times one fixed-point number,
`multiplier` / 2^`shift`, is the next value.

Source: Jacob et al. 2018 (1712.05877), sections 2.1 to 2.4; kernels by unit as in LiteRT's
specification of 8-bit quantisation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dynhp_jax.export import graph as graphs
from dynhp_jax.export.graph import Graph, Op


@dataclasses.dataclass(frozen=True)
class Range:
    """What the integers of a value stand for: scale * (v - zero)."""

    scale: float
    zero: int

    def integers(self, x: np.ndarray) -> np.ndarray:
        """i8: the nearest ones."""
        found = np.round(np.asarray(x, np.float64) / self.scale) + self.zero
        return np.clip(found, -128, 127).astype(np.int8)

    def bounds(self, clip: tuple[float, float] | None) -> tuple[int, int]:
        """The smallest and the largest integer of a value that is clipped."""
        low, high = clip or (-math.inf, math.inf)
        ends = [-128 if math.isinf(low) else round(low / self.scale) + self.zero]
        ends.append(127 if math.isinf(high) else round(high / self.scale) + self.zero)
        return max(-128, min(ends[0], 127)), min(127, max(ends[1], -128))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer or a convolution in integers.

    Attributes:
      kernel: i8, the axis of the units first: all that makes a unit lies together.
      bias: i32[n], in units of the sums.
      scales: f64[n], what one unit of a sum stands for.
    """

    kernel: np.ndarray
    bias: np.ndarray
    scales: np.ndarray


def ranges(graph: Graph, calibration: Any) -> dict[str, Range]:
    """The range of every value, from some inputs [examples, ...]; 0 is in each, exactly.

    What moves numbers without changing them keeps its operand's range, so that it is exact.
    """
    values = graphs.run(graph, *map(np.asarray, jax.tree.leaves(calibration)), every=True)
    found = {name: range_of(x) for name, x in values.items()}
    for op in graph.ops:
        if op.kind in ("reshape", "take", "transpose") or (
            op.kind == "pool" and op.attrs["how"] == "max"
        ):
            found[op.name] = found[op.data[0]]
    return found


def range_of(x: np.ndarray) -> Range:
    """The range of some numbers, and of 0."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return Range(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def layer(op: Op, known: Mapping[str, Range]) -> Layer:
    """The integers of a dense layer or a convolution."""
    x, w, b = op.inputs
    w = w.astype(np.float64)
    largest = np.abs(w).max(tuple(range(w.ndim - 1)))
    by_unit = np.where(largest > 0, largest, 1.0) / 127
    scales = by_unit * known[x].scale
    bias = np.clip(np.round(b / scales), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    return Layer(np.moveaxis(np.round(w / by_unit).astype(np.int8), -1, 0), bias, scales)


def fixed(factors: Any) -> tuple[np.ndarray, int]:
    """(multipliers, shift): i32 numbers that, divided by 2^shift, are the factors."""
    factors = np.atleast_1d(np.asarray(factors, np.float64))
    shift = int(np.clip(30 - math.floor(math.log2(np.abs(factors).max() or 1.0)), 1, 62))
    return np.round(factors * 2.0**shift).clip(-(2**31), 2**31 - 1).astype(np.int64), shift
