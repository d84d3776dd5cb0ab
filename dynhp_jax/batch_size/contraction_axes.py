"""The axes of a matrix product between examples and a leaf, as `example_norms` wants them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from dynhp_jax.batch_size.example_norms import outer_product_norms

AxisNumbers = tuple[int, ...]


class Operand(NamedTuple):
    """An operand's axes: those that both keep, those summed over, and those it has alone."""

    shared: AxisNumbers
    summed: AxisNumbers
    free: AxisNumbers


@dataclasses.dataclass(frozen=True)
class ProductAxes:
    """The axes of a `dot_general` and its result.

    Attributes:
      data: of the operand with the examples.
      leaf: of the other one; shared and summed axes are in the same order.
      shared, free, made: axes of the result, those of `data.shared`, `data.free` and `leaf.free`.
    """

    data: Operand
    leaf: Operand
    shared: AxisNumbers
    free: AxisNumbers
    made: AxisNumbers

    @classmethod
    def of(cls, dimension_numbers: Any, ranks: tuple[int, int], data: int) -> ProductAxes:
        """Of the equation's parameter, the ranks of its operands, and which has the examples."""
        summed, shared = dimension_numbers
        operands = [_operand(*each) for each in zip(ranks, shared, summed, strict=True)]
        # The result has the shared axes, then those that the left has alone, then the right's.
        a = len(shared[0])
        b = a + len(operands[0].free)
        c = b + len(operands[1].free)
        alone = [tuple(range(a, b)), tuple(range(b, c))]
        return cls(
            operands[data], operands[1 - data], tuple(range(a)), alone[data], alone[1 - data]
        )

    def norms(self, array: Any, cotangent: Any, b: int, examples: int) -> Any:
        """f[examples]: squared norms of the examples' shares of the leaf's gradient.

        Args:
          array: the operand with the examples.
          cotangent: of the result.
          b: the axis of `array`, one of `data.free`, that leads with the examples.
          examples: how many.
        """
        at = self.free[self.data.free.index(b)]
        a = _blocks(array, b, examples, self.data.shared, self.data.free, self.data.summed)
        d = _blocks(cotangent, at, examples, self.shared, self.free, self.made)
        return outer_product_norms(a, d)

    def factor(self, factor: Any) -> Any:
        """A factor of the leaf as one that the operand with the examples takes instead.

        Args:
          factor: of the leaf's rank, of size one where it is the same all along an axis.

        Returns:
          It, with its axes where the operand has them; None if it varies along others.
        """
        if any(factor.shape[d] != 1 for d in self.leaf.free):
            return None
        here = (*self.data.shared, *self.data.summed)
        there = (*self.leaf.shared, *self.leaf.summed)
        shape = [1] * (len(here) + len(self.data.free))
        for axis, d in zip(here, there, strict=True):
            shape[axis] = factor.shape[d]
        order = [d for _, d in sorted(zip(here, there, strict=True))]
        return jnp.transpose(factor, (*order, *self.leaf.free)).reshape(shape)


def _operand(rank: int, shared: AxisNumbers, summed: AxisNumbers) -> Operand:
    free = tuple(d for d in range(rank) if d not in (*shared, *summed))
    return Operand(tuple(shared), tuple(summed), free)


def _blocks(
    array: Any, b: int, examples: int, shared: AxisNumbers, free: AxisNumbers, features: AxisNumbers
) -> Any:
    """[examples, shared, places, features] of an array whose axis `b` has the examples."""
    places = tuple(d for d in free if d != b)
    sizes = [math.prod(array.shape[d] for d in axes) for axes in (shared, features)]
    moved = jnp.transpose(array, (b, *places, *shared, *features))
    return jnp.swapaxes(moved.reshape(examples, -1, *sizes), 1, 2)
