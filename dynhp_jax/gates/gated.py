"""Gates on the units of a model that was never written for them.

A gate multiplies a unit where its value is read: at the operand of every matrix product or
convolution that sums over the group, or, which is the same, the rows of the kernel there. A product
of two units (an outer product of a group with itself) is multiplied by the gates of both. Another
sum over the units of an exact group reads them as well, such as that of their squares in an
RMSNorm. A closed gate there is the same as a unit that is not there, whatever lies between the
unit's production and its use; so cut and masked models agree.

>>> import jax, jax.numpy as jnp
>>> from dynhp_jax import find_groups
>>> def apply(params, x):
...     return jnp.tanh(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
>>> x = jnp.ones((4, 2))
>>> gated_apply = gated(apply, find_groups(apply, params, x))
>>> half = gated_apply(params, {"a": jnp.array([1.0, 0.5, 0.0])}, x)
>>> bool(jnp.allclose(half, 0.5 * apply(params, x)))
True
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.tree_paths import InputPath
from dynhp_jax.jaxprs.rules.choices import CHOICES, LEFT_OUT, reduced_axes
from dynhp_jax.jaxprs.shardings import evenly, split_as
from dynhp_jax.jaxprs.trace import Traced, varying
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Analysis, Value
from dynhp_jax.structure.group import mismatch
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import check_no_keeps
from dynhp_jax.structure.unit_reads import UnitReads


def gated(apply: Callable, groups: Groups) -> Callable:
    """Puts a gate on every unit of the chosen groups.

    Args:
      apply: `apply(variables, *inputs) -> outputs`; for evaluation or for training, as long as its
        variables are those of the groups.
      groups: from `find_groups`.

    Returns:
      `f(variables, gates, *inputs) -> outputs`. `gates` maps group names to f[units] (one draw for
      the mini-batch) or f[batch, units] (one for each example); groups that it leaves out are not
      gated. A gate of zero also leaves a unit out where units are chosen among (`Group.chosen`).
      `f` can be jitted, differentiated and transformed again, also inside `jax.shard_map`.
      Functions with a derivative of their own (custom_vjp, custom_jvp) keep it where gates can
      stand on their operands.

    Raises (when called):
      ValueError: for an unknown group, a gate of the wrong shape, variables of other sizes than the
        groups', per-example gates on units that are read where no batch axis is, gates where
        integers are multiplied, gates on units that no matrix product, convolution or exact sum
        reads (but for masks of type bool on units that are chosen among), or, inside `shard_map`,
        gates that differ between devices on units that do not; when
        differentiated, for a gate that had to be inside a function with a derivative of its own.
    """

    def hook(call: Call, gates: Mapping[str, Any]) -> _Gates:
        traced = call.traced
        _check(gates, groups, None if traced.batch is None else traced.batch.size)
        _check_sizes(gates, groups, traced)
        return _Gates(traced, groups, gates)

    return transformed(apply, 1, hook)


def _check(gates: Mapping[str, Any], groups: Groups, examples: int | None) -> None:
    groups.check_names(list(gates))
    check_no_keeps(gates, "gates")
    for name, gate in gates.items():
        shape, size = jnp.shape(gate), groups[name].size
        if size == 1 and any(m.products for m in groups[name].members):
            raise ValueError(
                f"the unit that is left of group {name!r} is multiplied with itself, as often as "
                "an axis of size one cannot tell; leave its gate out"
            )
        if len(shape) not in (1, 2) or shape[-1] != size:
            raise ValueError(
                f"gate of group {name!r} has shape {shape}; allowed: ({size},) or (batch, {size})"
            )
        if len(shape) == 2 and examples not in (None, shape[0]):
            raise ValueError(
                f"gate of group {name!r} is for {shape[0]} examples; the first input has {examples}"
            )


def _check_sizes(gates: Mapping[str, Any], groups: Groups, traced: Traced) -> None:
    """Raises ValueError where a leaf has other positions than those that the groups speak of.

    Inputs may come whole to a function that cuts them itself, unless their own units are gated.
    """
    for name, group in groups.items():
        for m in group.members:
            if m.path in traced.shapes and (name in gates or not isinstance(m.path, InputPath)):
                found, wanted = traced.shapes[m.path], groups.shapes[m.path]
                if len(found) != len(wanted) or found[m.axis] != wanted[m.axis]:
                    raise ValueError(mismatch(m.path, found, wanted))


def _product(gate: jax.Array, units: np.ndarray) -> jax.Array:
    """f[..., axis size]: the product of the gates [..., units] at each position (int[n, size])."""
    size = gate.shape[-1]
    if np.array_equal(units, np.arange(size)[None]):
        return gate
    gate = jnp.concatenate([gate, jnp.ones((*gate.shape[:-1], 1), gate.dtype)], -1)
    return functools.reduce(jnp.multiply, [gate[..., at] for at in units])


def _factor(
    gate: jax.Array,
    units: np.ndarray,
    examples: np.ndarray | None,
    flipped: bool,
    shape: tuple[int, ...],
) -> jax.Array:
    """Gates [units] or [batch, units] as what an array is multiplied with.

    Args:
      gate: of all units, and of all examples if there are examples.
      units: int[n, size], the units whose gates are multiplied at each position.
      examples: int[size], the example of each position; None for gates of the mini-batch.
      flipped: whether the array's axis of units comes before that of examples.
      shape: of the factor: 1 but along the array's axis of units and that of examples.
    """
    if examples is not None and not np.array_equal(examples, np.arange(gate.shape[0])):
        gate = gate[examples]
    gate = _product(gate, units)
    if flipped:
        gate = gate.T
    return gate.reshape(shape)


SMALL = 4  # a mini-batch is small if the kernel holds more than so many times its numbers


class _Gates(UnitReads):
    def __init__(self, traced: Traced, groups: Groups, gates: Mapping[str, Any]):
        super().__init__(traced, groups, gates.keys())
        self.gates = gates

    def on_rows(self, name: str, data: Any, kernel: Any) -> bool:
        """Whether a gate had better multiply the rows of a kernel than the data.

        The product is the same. Of an input nothing else needs the gradient with respect to the
        data, which costs as much as the layer itself; but a small mini-batch takes less memory.
        """
        members = self.groups[name].members
        cheap = SMALL * jnp.size(data) >= jnp.size(kernel)
        shared = jnp.ndim(self.gates[name]) == 1
        # Another transform may want the kernel as it is.
        return self.alone and cheap and shared and any(m.role == "data" for m in members)

    def finish(self, outputs: Any) -> Any:
        self.check_met()
        return outputs

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        primitive = eqn.primitive.name
        for d in reduced_axes(eqn) if primitive in LEFT_OUT else ():
            for name, units in self.places.chosen_on(values[0].axes[d]).items():
                gate = jnp.not_equal(self.gates[name], 0)
                opened = self._placed(gate, name, units, args[0], values[0], d)
                nothing = jnp.asarray(LEFT_OUT[primitive](args[0].dtype), args[0].dtype)
                args = [jnp.where(opened, args[0], nothing), *args[1:]]
                if primitive in CHOICES and jnp.asarray(self.gates[name]).dtype == bool:
                    self.places.met.add(name)
        return super().operands(eqn, values, args)

    def around(self, body: Analysis, values: list[Value], args: list[Any]) -> list[Any] | str:
        name = self._chosen_in(body)
        if name is not None:
            return (
                f"it chooses among units of group {name!r} or adds them up, so that its gate has to"
                " be inside; take that out of it, or leave that gate out"
            )
        return super().around(body, values, args)

    def _chosen_in(self, body: Analysis) -> str | None:
        """A group whose units are chosen among, or reduced, inside a function."""
        for eqn, operands in zip(body.jaxpr.eqns, body.operands, strict=True):
            for d in reduced_axes(eqn) if eqn.primitive.name in LEFT_OUT else ():
                for name in self.places.chosen_on(operands[0].axes[d]):
                    return name
        inner = (self._chosen_in(each) for bodies in body.inner.values() for each in bodies)
        return next((name for name in inner if name is not None), None)

    def at_read(self, array: Any, value: Value, d: int, on_axis: dict[str, np.ndarray]) -> Any:
        for name, units in on_axis.items():
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                array = self._as_result(array, name)
            gate = jnp.asarray(self.gates[name], array.dtype)
            array = array * self._placed(gate, name, units, array, value, d)
        return array

    def _placed(
        self, gate: Any, name: str, units: np.ndarray, array: Any, value: Value, d: int
    ) -> Any:
        """The gates of a group in the array's rank, on its axis d and that of the examples."""
        apart = tuple(sorted(varying(self.gates[name]) - varying(array)))
        if apart:
            raise ValueError(
                f"gates of group {name!r} differ between devices along {apart}, and what"
                " is read there does not; give all of these devices the same gates"
            )
        axes, examples, at = {d: units.shape[1]}, None, d
        if gate.ndim == 2:
            at = self.places.batch_axis(value)
            if at is None or at == d:
                raise ValueError(
                    f"group {name!r} is read where no batch axis is; gate it per mini-batch"
                )
            examples = self.places.examples_on(value.axes[at])
            axes[at] = examples.size
        shape = tuple(axes.get(k, 1) for k in range(array.ndim))
        factor = functools.partial(
            _factor, units=units, examples=examples, flipped=at > d, shape=shape
        )
        where = evenly(jax.typeof(array).sharding, array.shape, shape)
        return split_as(where, factor, gate)

    def _as_result(self, array: Any, name: str) -> Any:
        """Integers as the numbers that they are multiplied as, where these can be gated."""
        dtype = self.reader.outvars[0].aval.dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"group {name!r} is read by '{self.reader.primitive.name}' in {array.dtype}, where "
                "its gate would be rounded; leave it out, or quantise the model after gating it"
            )
        return array.astype(dtype)
