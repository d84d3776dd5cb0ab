"""Where a running program reads the units of groups: what gates and importance scores hook into.

A matrix product or a convolution over units reads them; so does a sum over those of an exact group,
such as that of the squares in an RMSNorm.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynhp_jax.jaxprs.custom_derivatives import READERS, read_by
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.rules.contractions import PRODUCTS, product_axes
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.values import Analysis, Value
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.unit_positions import UnitPlaces


class UnitReads(Hook):
    """Calls `at_read` for the operand of every equation that reads units.

    Attributes:
      groups: all of them.
      places: of the units of those that are looked for.
      reader: the equation whose operand is looked at.
    """

    def __init__(self, traced: Traced, groups: Groups, names: Collection[str]):
        self.groups = groups
        self.places = UnitPlaces(traced, groups, names)
        self.reader: Any = None

    def at_read(self, array: Any, value: Value, d: int, on_axis: dict[str, np.ndarray]) -> Any:
        """The array, perhaps changed, on whose axis d the units are that are read."""
        raise NotImplementedError

    def on_rows(self, name: str, data: Any, kernel: Any) -> bool:
        """Whether `at_read` is for the rows of the kernel that read a group, not for the data."""
        return False

    def in_sums(self, name: str) -> bool:
        """Whether sums over the units of a group are looked at, too."""
        return self.groups[name].exact and not self.groups[name].chosen

    def check_met(self) -> None:
        """After the run: raises ValueError for a group whose units it did not meet; see places."""
        self.places.check_met()

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        if eqn.primitive.name not in READERS:
            return args
        self.reader = eqn
        if eqn.primitive.name == "reduce_sum":
            array = args[0]
            for axes, units in self._summed(values, eqn.params["axes"]):
                array = self._at(array, values[0], axes, units)
            return [array]
        side = self._data_side(values)
        value, array, kernel = values[side], args[side], args[1 - side]
        if eqn.primitive.name in PRODUCTS:
            leaf = values[1 - side]
            contracted, _ = product_axes(eqn)
            rows = dict(zip(contracted[side], contracted[1 - side], strict=True))
            for axes, on_axes in self.places.read_over(value, contracted[side], values):
                for name, units in on_axes.items():
                    if len(axes) == 1 and leaf.linear and self.on_rows(name, array, kernel):
                        kernel = self.at_read(kernel, leaf, rows[axes[0]], {name: units})
                    else:
                        array = self._at(array, value, axes, {name: units})
        else:
            numbers = eqn.params["dimension_numbers"]
            read = values[1].axes[numbers.rhs_spec[1]]
            units = self.places.units_on(read, values)
            if side == 0:  # the features of a group, for each of the convolution's groups
                repeats = eqn.params["feature_group_count"]
                units = {name: np.tile(at, repeats) for name, at in units.items()}
            d = (numbers.lhs_spec[1], numbers.rhs_spec[1])[side]
            array = self.at_read(array, value, d, units)
        return [*((array, kernel) if side == 0 else (kernel, array)), *args[2:]]

    def around(self, body: Analysis, values: list[Value], args: list[Any]) -> list[Any] | str:
        read = read_by(body, self._reads)
        whole = [k for k in read.by_operand if not jnp.issubdtype(args[k].dtype, jnp.inexact)]
        inside = read.inside.union(*(read.by_operand[k] for k in whole))
        if inside:
            return (
                f"it reads units of group {min(inside)!r}, whose gate has to be inside; take the"
                " matrix product out of it, or leave that gate out"
            )
        args = list(args)
        for k, names in read.by_operand.items():
            every = range(len(values[k].axes))
            for axes, units in self.places.read_over(values[k], every, [values[k]]):
                units = {name: units[name] for name in units if name in names}
                args[k] = self._at(args[k], values[k], axes, units)
        return args

    def _at(
        self, array: Any, value: Value, axes: tuple[int, ...], units: dict[str, np.ndarray]
    ) -> Any:
        """`at_read` on one axis, or on two as if they were one."""
        if len(axes) == 1:
            return self.at_read(array, value, axes[0], units)
        first, d = axes
        order = [k for k in range(array.ndim) if k != first]
        at = order.index(d)
        order.insert(at, first)
        both = (*value.axes[first], *value.axes[d])
        moved = tuple(value.axes[k] for k in order)
        as_one = Value((*moved[:at], both, *moved[at + 2 :]), sources=value.sources)
        array = jnp.transpose(array, order)
        shape = array.shape
        array = array.reshape(*shape[:at], -1, *shape[at + 2 :])
        array = self.at_read(array, as_one, at, units).reshape(shape)
        return jnp.transpose(array, np.argsort(order))

    def _reads(self, eqn: Any, values: list[Value]) -> tuple[int, frozenset[str]]:
        """The operand that an equation reads units from, and the groups of these."""
        if eqn.primitive.name == "reduce_sum":
            read = self._summed(values, eqn.params["axes"])
            return 0, frozenset().union(*(units for _, units in read))
        side = self._data_side(values)
        if eqn.primitive.name in PRODUCTS:
            read = self.places.read_over(values[side], product_axes(eqn)[0][side], values)
            return side, frozenset().union(*(units for _, units in read))
        axis = values[1].axes[eqn.params["dimension_numbers"].rhs_spec[1]]
        return side, frozenset(self.places.units_on(axis, values))

    def _summed(self, values: list[Value], dims: Sequence[int]) -> list[tuple]:
        """The units that a sum over axes of its operand reads: none in a penalty on weights."""
        if values[0].sources:
            return []
        return self.places.read_over(values[0], dims, values, self._of_sums)

    @functools.cached_property
    def _of_sums(self) -> list[str]:
        return [n for n in self.places.unit_of if self.in_sums(n) and self.places.told_apart(n)]

    def _data_side(self, values: list[Value]) -> int:
        """The operand that carries examples or else data; of parameters alone, the left one."""
        data = [side for side in (0, 1) if not values[side].sources]
        batched = [side for side in data if self.places.batch_axis(values[side]) is not None]
        return (batched or data or [0])[0]
