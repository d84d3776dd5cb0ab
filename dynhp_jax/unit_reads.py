"""Where a running program reads the units of groups: what gates and importance scores hook into.

A matrix product or a convolution over units reads them; so does a sum over those of an exact group,
such as that of the squares in an RMSNorm.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynhp_jax.groups import Groups
from dynhp_jax.jaxprs.contractions import PRODUCTS, product_axes
from dynhp_jax.jaxprs.evaluate import Hook
from dynhp_jax.jaxprs.own_derivatives import READERS, read_by
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.walk import Analysis, Value
from dynhp_jax.unit_places import UnitPlaces


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
            for d in eqn.params["axes"]:
                array = self.at_read(array, values[0], d, self._summed(values, d))
            return [array]
        side = self._data_side(values)
        value, array, kernel = values[side], args[side], args[1 - side]
        if eqn.primitive.name in PRODUCTS:
            leaf = values[1 - side]
            contracted, _ = product_axes(eqn)
            for d, row in zip(contracted[side], contracted[1 - side], strict=True):
                for name, units in self.places.units_on(value.axes[d], values).items():
                    if leaf.linear and self.on_rows(name, array, kernel):
                        kernel = self.at_read(kernel, leaf, row, {name: units})
                    else:
                        array = self.at_read(array, value, d, {name: units})
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
            for d, axis in enumerate(values[k].axes):
                units = self.places.units_on(axis, [values[k]])
                units = {name: units[name] for name in units if name in names}
                args[k] = self.at_read(args[k], values[k], d, units)
        return args

    def _reads(self, eqn: Any, values: list[Value]) -> tuple[int, frozenset[str]]:
        """The operand that an equation reads units from, and the groups of these."""
        if eqn.primitive.name == "reduce_sum":
            return 0, frozenset().union(*(self._summed(values, d) for d in eqn.params["axes"]))
        side = self._data_side(values)
        if eqn.primitive.name in PRODUCTS:
            axes = [values[side].axes[d] for d in product_axes(eqn)[0][side]]
        else:
            axes = [values[1].axes[eqn.params["dimension_numbers"].rhs_spec[1]]]
        return side, frozenset().union(*(self.places.units_on(axis, values) for axis in axes))

    def _summed(self, values: list[Value], d: int) -> dict[str, np.ndarray]:
        """The units that a sum over an axis of its operand reads: none in a penalty on weights."""
        if values[0].sources:
            return {}
        return self.places.units_on(values[0].axes[d], values, self._of_sums)

    @functools.cached_property
    def _of_sums(self) -> list[str]:
        return [n for n in self.places.unit_of if self.in_sums(n) and self.places.told_apart(n)]

    def _data_side(self, values: list[Value]) -> int:
        """The operand that carries examples or else data; of parameters alone, the left one."""
        data = [side for side in (0, 1) if not values[side].sources]
        batched = [side for side in data if self.places.batch_axis(values[side]) is not None]
        return (batched or data or [0])[0]
