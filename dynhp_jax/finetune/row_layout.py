"""Which numbers of a kernel are read by one input channel: its rows, as an axis of their own."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.finetune.digits import Digit, Digits


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """The rows of a kernel. A row is an input channel with all the weights that read it.

    An array of chosen rows has the kernel's axes, but one axis for the rows instead of those that
    count them: of a convolution's [height, width, in, out] it is [height, width, rows, out]. What
    an axis counts beside rows (the multiplier, in the [out] of a depthwise convolution) is an axis
    of its own.

    Attributes:
      shape: of the kernel, or of one step's share of kernels that are stacked for a loop.
      rows: the digits that number the rows, the slowest first; none if there is one row.
      steps: how many kernels are stacked along a further first axis; 0 if there is no such axis.
    """

    shape: tuple[int, ...]
    rows: Digits
    steps: int = 0

    @property
    def count(self) -> int:
        """How many rows there are, at each step."""
        return math.prod(digit.size for digit in self.rows)

    @property
    def at(self) -> int:
        """The axis of the rows in an array of chosen rows."""
        return self._first + bool(self.steps)

    def shape_of(self, count: int) -> tuple[int, ...]:
        """The shape of an array of so many rows (of each step).

        >>> RowLayout((3, 3, 8, 4), (Digit(8, 4),)).shape_of(2)
        (3, 3, 2, 4)
        """
        return (*(self.steps,) * bool(self.steps), *self.step.shape_of_step(count))

    def index_shape(self, count: int) -> tuple[int, ...]:
        """The shape of the numbers of so many rows (of each step).

        >>> RowLayout((4, 3), (Digit(4, 3),), steps=5).index_shape(2)
        (5, 2)
        """
        return (*(self.steps,) * bool(self.steps), count)

    def shape_of_step(self, count: int) -> tuple[int, ...]:
        """The same without the axis of the steps."""
        sizes = [digit.size for digit, of_rows in self._parts if not of_rows]
        return (*sizes[: self._first], count, *sizes[self._first :])

    @property
    def step(self) -> RowLayout:
        """Of one step's kernel."""
        return dataclasses.replace(self, steps=0) if self.steps else self

    @functools.cached_property
    def _parts(self) -> tuple[tuple[Digit, bool], ...]:
        """The kernel's digits in the order of its axes, and which of them count rows."""
        parts = []
        ends = {end for digit in self.rows for end in (digit.stride, digit.stride * digit.size)}
        low = math.prod(self.shape)
        for size in self.shape:
            high, low = low, low // size
            marks = [high, *sorted((end for end in ends if low < end < high), reverse=True), low]
            for above, below in zip(marks, marks[1:], strict=False):
                of_rows = size > 1 and any(
                    digit.stride <= below and above <= digit.stride * digit.size
                    for digit in self.rows
                )
                parts.append((Digit(above // below, below), of_rows))
        return tuple(parts)

    @functools.cached_property
    def _first(self) -> int:
        """How many digits come before those of the rows."""
        flags = [of_rows for _, of_rows in self._parts]
        return flags.index(True) if self.rows else 0

    @functools.cached_property
    def _order(self) -> tuple[int, ...]:
        """The digits, but with those of the rows side by side."""
        of_rows = [k for k, (_, rows) in enumerate(self._parts) if rows]
        others = [k for k, (_, rows) in enumerate(self._parts) if not rows]
        return (*others[: self._first], *of_rows, *others[self._first :])

    def assembled(self, gradient: Any, others: Sequence[Digit]) -> Any:
        """[rows, *others] of one step as an array of chosen rows.

        Args:
          gradient: with the rows on its first axis.
          others: the digits of its other axes, in their order.
        """
        first = self.rows[0].stride if self.rows else math.inf
        order = sorted(range(len(others)), key=lambda k: -others[k].stride)
        before = sum(digit.stride > first for digit in others)
        axes = [k + 1 for k in order]
        array = gradient.reshape(gradient.shape[0], *(digit.size for digit in others))
        array = jnp.transpose(array, (*axes[:before], 0, *axes[before:]))
        return array.reshape(self.shape_of_step(gradient.shape[0]))

    def taken(self, kernel: Any, index: Any) -> Any:
        """Chosen rows of a kernel (or of an array like it); those past the end are 0."""
        if self.steps:
            return jax.vmap(self.step.taken)(kernel, index)
        found = jnp.take(self._viewed(kernel), index, self._first, mode="fill", fill_value=0)
        return found.reshape(self.shape_of(index.shape[0]))

    def added(self, kernel: Any, index: Any, rows: Any) -> Any:
        """The kernel with an array of chosen rows added to them; rows past the end are left out."""
        if self.steps:
            return jax.vmap(self.step.added)(kernel, index, rows)
        place = (*(slice(None),) * self._first, index)
        view = self._viewed(kernel).at[place].add(rows.astype(kernel.dtype), mode="drop")
        digits = view.reshape([self._parts[k][0].size for k in self._order])
        return jnp.transpose(digits, np.argsort(self._order)).reshape(kernel.shape)

    def _viewed(self, kernel: Any) -> Any:
        """The kernel with one axis of all its rows."""
        digits = kernel.reshape([digit.size for digit, _ in self._parts])
        return jnp.transpose(digits, self._order).reshape(self.shape_of(self.count))
