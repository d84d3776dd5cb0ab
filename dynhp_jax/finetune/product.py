"""The axes of a product of data and a kernel: its rows in the data, and the gradient of some.

`narrow` takes of the data the channels that chosen rows read. `gradient` makes of them the gradient
of these rows, by the transpose of the product itself: it is a slice of the whole gradient.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.finetune import depthwise
from dynhp_jax.finetune.digits import Digit, Layout, split
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.jaxprs.interpreter import bind
from dynhp_jax.jaxprs.trace import typed_as

DENSE, CONVOLUTION, DEPTHWISE, GROUPED = "dense", "convolution", "depthwise", "grouped"


@dataclasses.dataclass(frozen=True)
class KernelProduct:
    """A matrix product or a convolution of data and a kernel.

    Attributes:
      eqn: the equation.
      side: which operand is the kernel.
      kind: DENSE, CONVOLUTION, DEPTHWISE or GROUPED.
      summed: axes of the data that are summed over, or the one of a convolution's channels.
      kernel_summed: those of the kernel, in the same order; of groups, the axis that counts them.
      order: digits of the data's summed axes, (its axis among `summed`, size), and in which order
        they number the rows.
      per: positions of the channel axis that are one row, and of the result's that it makes; more
        than one in grouped convolutions.
      others: digits of the kernel's other axes, as `gradient` leaves them.
    """

    eqn: Any
    side: int
    kind: str
    summed: tuple[int, ...]
    kernel_summed: tuple[int, ...]
    order: tuple[tuple[tuple[int, int], ...], tuple[int, ...]]
    per: tuple[int, int]
    others: tuple[Digit, ...]

    @property
    def data(self) -> int:
        """Which operand is the data."""
        return 1 - self.side

    @property
    def grouped(self) -> bool:
        """Whether every row makes channels of its own."""
        return self.kind in (DEPTHWISE, GROUPED)

    @property
    def made(self) -> int:
        """The axis of a convolution's result that counts what it makes."""
        return self.eqn.params["dimension_numbers"].out_spec[1]

    @property
    def plain(self) -> bool:
        """Whether rows are positions of one axis of the kernel and of one of the data."""
        return len(self.summed) == 1 and not self.grouped

    def matched(self, axis: int) -> int | None:
        """The axis of the result whose positions go with those of an axis of the data."""
        if self.kind != DENSE:
            numbers = self.eqn.params["dimension_numbers"]
            return numbers.out_spec[0] if axis == numbers.lhs_spec[0] else None
        contracted, shared = self.eqn.params["dimension_numbers"]
        ranks = [len(var.aval.shape) for var in self.eqn.invars]
        free = [
            [d for d in range(ranks[k]) if d not in (*contracted[k], *shared[k])] for k in (0, 1)
        ]
        if axis not in free[self.data]:
            return None
        before = len(shared[0]) + (len(free[0]) if self.data == 1 else 0)
        return before + free[self.data].index(axis)

    def placed(self, gradient: Any) -> Any:
        """[rows, *others] of a plain product as a gradient of the kernel."""
        return jnp.moveaxis(gradient, 0, self.kernel_summed[0])

    def whole_gradient(self, array: Any, cotangent: Any) -> Any:
        """The kernel's gradient where the data is this array."""
        aval = self.eqn.invars[self.side].aval

        def product(kernel: Any) -> Any:
            operands = (kernel, array) if self.side == 0 else (array, kernel)
            return bind(self.eqn, operands)[0]

        kernel = typed_as(jax.ShapeDtypeStruct(aval.shape, aval.dtype), aval)
        return jax.linear_transpose(product, kernel)(cotangent)[0]

    def channels_first(self, array: Any) -> Any:
        """The data with all its rows on the first of the summed axes; the others have size one."""
        sizes, order = self.order
        if len(self.summed) == 1 and order == tuple(range(len(order))):
            return array
        shape: list[int] = []
        places: dict[int, int] = {}
        for d, size in enumerate(array.shape):
            mine = [k for k, (axis, _) in enumerate(sizes) if self.summed[axis] == d]
            places.update({k: len(shape) + n for n, k in enumerate(mine)})
            shape += [sizes[k][1] for k in mine] if d in self.summed else [size]
        rows = [places[k] for k in order]
        rest = [k for k in range(len(shape)) if k not in rows]
        array = jnp.transpose(array.reshape(shape), (*rest, *rows))
        array = array.reshape(*(shape[k] for k in rest), -1)
        rank = len(self.eqn.invars[self.data].aval.shape)
        free = [d for d in range(rank) if d not in self.summed]
        array = jnp.moveaxis(array, -1, sum(d < self.summed[0] for d in free))
        return jnp.expand_dims(array, self.summed[1:])

    def narrow(self, array: Any, index: Any) -> Any:
        """The channels of the data that chosen rows read; zeros for rows past the end."""
        return _rows(self.channels_first(array), index, self.summed[0], self.per[0])

    def narrow_result(self, result: Any, index: Any) -> Any:
        """The channels of a result that chosen rows make, where each makes channels of its own."""
        return _rows(result, index, self.made, self.per[1])

    def gradient(self, array: Any, cotangent: Any) -> Any:
        """[rows, *others]: the gradient of the rows whose channels `array` has.

        Args:
          array: from `narrow`, or with other channels along its axis of channels.
          cotangent: of the product's result; where each row makes channels of its own, of these.
        """
        if self.kind == DEPTHWISE and depthwise.smaller(self.eqn, array):
            return self._depthwise(array, cotangent)
        count = array.shape[self.summed[0]] // self.per[0]
        aval = self.eqn.invars[self.side].aval
        shape, changed = list(aval.shape), {}
        first, *rest = self.kernel_summed
        shape[first] = count * (self.per[1] if self.grouped else 1)
        for axis in rest:
            shape[axis] = 1
        if self.grouped:
            changed = {"feature_group_count": count}

        def product(kernel: Any) -> Any:
            operands = (kernel, array) if self.side == 0 else (array, kernel)
            return bind(self.eqn, operands, **changed)[0]

        kernel = typed_as(jax.ShapeDtypeStruct(tuple(shape), aval.dtype), aval)
        (found,) = jax.linear_transpose(product, kernel)(cotangent)
        found = jnp.squeeze(found, rest) if rest else found
        first -= sum(axis < first for axis in rest)
        if self.grouped:
            found = found.reshape(*shape[:first], count, self.per[1], *shape[first + 1 :])
        return jnp.moveaxis(found, first, 0)

    def _depthwise(self, array: Any, cotangent: Any) -> Any:
        """[rows, *others]: the axes of the kernel in their order, its multiplier among them."""
        found = depthwise.kernel_gradient(self.eqn, array, cotangent)
        out, read, *space = self.eqn.params["dimension_numbers"].rhs_spec
        # From (rows, multiplier, *space) to the kernel's order, with its input channels of size 1.
        found = jnp.expand_dims(found, 2)
        order = {out: 1, read: 2} | {axis: 3 + k for k, axis in enumerate(space)}
        return jnp.transpose(found, (0, *(order[axis] for axis in sorted(order))))


def matrix_product(
    eqn: Any, side: int, layout: Layout, shape: tuple[int, ...]
) -> tuple[KernelProduct, RowLayout] | str:
    """The axes of a matrix product, or in words why rows of its kernel cannot be chosen."""
    if eqn.primitive.name != "dot_general":
        return f"is used by '{eqn.primitive.name}'"
    contracted, _ = eqn.params["dimension_numbers"]
    summed, of_kernel = tuple(contracted[1 - side]), tuple(contracted[side])
    if not summed:
        return "is multiplied with data without a sum over input channels"
    places = sorted(range(len(summed)), key=lambda k: summed[k])
    summed, of_kernel = (tuple(axes[k] for k in places) for axes in (summed, of_kernel))
    digits = [(k, digit) for k, axis in enumerate(of_kernel) for digit in layout[axis]]
    order = tuple(sorted(range(len(digits)), key=lambda k: -digits[k][1].stride))
    rows = RowLayout(shape, _merged(digits[k][1] for k in order))
    others = tuple(d for axis, ds in enumerate(layout) if axis not in of_kernel for d in ds)
    sizes = tuple((k, digit.size) for k, digit in digits)
    made = KernelProduct(eqn, side, DENSE, summed, of_kernel, (sizes, order), (1, 1), others)
    return made, rows


def convolution(
    eqn: Any, side: int, layout: Layout, shape: tuple[int, ...]
) -> tuple[KernelProduct, RowLayout] | str:
    """The axes of a convolution, or in words why rows of its kernel cannot be chosen."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if side == 0:
        return "is convolved with a kernel that is data"
    if eqn.params["batch_group_count"] != 1:
        return "is read by a convolution with groups of examples"
    out, read, *_ = numbers.rhs_spec
    channels = (numbers.lhs_spec[1],)
    if groups == 1:
        rows, kind, per, axis = layout[read], CONVOLUTION, (1, 1), read
        others = [d for a, ds in enumerate(layout) if a != read for d in ds]
    else:
        sizes = [var.aval.shape for var in eqn.invars]
        per = sizes[0][channels[0]] // groups, sizes[1][out] // groups
        parts = split(layout[out], groups)
        if parts is None:
            return "is read by a grouped convolution whose groups lie apart in it"
        rows, rest = parts
        kind, axis = DEPTHWISE if per[0] == 1 else GROUPED, out
        others = [d for a, ds in enumerate(layout) for d in (rest if a == out else ds)]
    if list(rows) != sorted(rows, key=lambda digit: -digit.stride):
        return "is read by a convolution in another order than it is held"
    order = (((0, math.prod(digit.size for digit in rows)),), (0,))
    made = KernelProduct(eqn, 1, kind, channels, (axis,), order, per, tuple(others))
    return made, RowLayout(shape, rows)


def _rows(array: Any, index: Any, axis: int, per: int) -> Any:
    """Chosen positions of an axis, `per` at a time; zeros past the end."""
    if per == 1:
        return jnp.take(array, index, axis, mode="fill", fill_value=0)
    shape = array.shape
    array = array.reshape(*shape[:axis], -1, per, *shape[axis + 1 :])
    array = jnp.take(array, index, axis, mode="fill", fill_value=0)
    return array.reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _merged(digits: Any) -> tuple[Digit, ...]:
    """Digits, where neighbours that count on are one."""
    result: list[Digit] = []
    for digit in digits:
        if result and result[-1].stride == digit.size * digit.stride:
            result[-1] = Digit(result[-1].size * digit.size, digit.stride)
        else:
            result.append(digit)
    return tuple(result)
