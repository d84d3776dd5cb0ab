"""Gates on the units of a model that was never written for them.

A gate multiplies a unit where its value is read: at the operand of every matrix product or
convolution that sums over the group. A closed gate there is the same as a unit that is not there,
whatever lies between the unit's production and its use; so cut and masked models agree.

>>> import jax, jax.numpy as jnp
>>> from dynhp_jax.groups import find_groups
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

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.groups import Group, Groups
from dynhp_jax.jaxprs.evaluate import Hook, Run
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.trace import Traced, trace
from dynhp_jax.jaxprs.walk import Value


def gated(apply: Callable, groups: Groups) -> Callable:
    """Puts a gate on every unit of the chosen groups.

    Args:
      apply: `apply(variables, *inputs) -> outputs`; for evaluation or for training, as long as its
        variables are those of the groups.
      groups: from `find_groups`.

    Returns:
      `f(variables, gates, *inputs) -> outputs`. `gates` maps group names to f[units] (one draw for
      the mini-batch) or f[batch, units] (one for each example); groups that it leaves out are not
      gated. `f` can be jitted, differentiated and transformed again.

    Raises (when called):
      ValueError: for an unknown group, a gate of the wrong shape, or per-example gates on units
        that are read where no batch axis is.
    """

    def with_gates(variables: Any, gates: Mapping[str, Any], *inputs: Any) -> Any:
        groups.check_names(list(gates))
        for name, gate in gates.items():
            size = groups[name].size
            if jnp.ndim(gate) not in (1, 2) or jnp.shape(gate)[-1] != size:
                raise ValueError(
                    f"gate of group {name!r} has shape {jnp.shape(gate)}; "
                    f"allowed: ({size},) or (batch, {size})"
                )
        traced = trace(apply, variables, inputs)
        hook = _Gates(traced, groups, gates)
        leaves = jax.tree.leaves((variables, inputs))
        out = Run(traced.walk, hook=hook)(traced.analysis, leaves)
        return jax.tree.unflatten(traced.out_tree, out)

    return with_gates


def unit_atoms(traced: Traced, group: Group) -> np.ndarray:
    """int[units]: the atom of each unit of a group in another trace of the same variables."""
    labels = traced.labels
    members = [m for m in group.members if m.path in traced.leaves]
    if not members:
        raise ValueError(f"the apply function has none of the leaves of group {group.name!r}")
    for member in sorted(members, key=lambda m: m.index.shape[1]):
        axis = traced.leaves[member.path][member.axis]
        positions, atoms = labels.axis_pairs(axis)
        count = np.bincount(positions, minlength=axis_size(axis))
        order = np.argsort(positions, kind="stable")
        if (count == 1).all():
            return atoms[order][member.index[:, 0]]
        # Several factors on one axis: a unit's atom is the one that all its positions share.
        by_position = np.split(atoms[order], np.cumsum(count)[:-1])
        shared = []
        for row in member.index:
            common = set(by_position[row[0]].tolist())
            for position in row[1:]:
                common &= set(by_position[position].tolist())
            shared.append(common)
        if all(len(common) == 1 for common in shared):
            return np.array([common.pop() for common in shared])
    raise ValueError(f"the units of group {group.name!r} cannot be told apart in this function")


class _Gates(Hook):
    def __init__(self, traced: Traced, groups: Groups, gates: Mapping[str, Any]):
        self.traced, self.gates = traced, gates
        labels = traced.labels
        self.unit_of: dict[int, tuple[str, int]] = {}
        for name in gates:
            for unit, atom in enumerate(labels.find(unit_atoms(traced, groups[name]))):
                self.unit_of[int(atom)] = (name, unit)
        batch = np.empty(0, np.int64) if traced.batch is None else labels.find(traced.batch)
        self.example_of = {int(atom): k for k, atom in enumerate(batch)}

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "dot_general":
            (left, right), _ = eqn.params["dimension_numbers"]
        elif name == "conv_general_dilated":
            numbers = eqn.params["dimension_numbers"]
            if (
                axis_size(values[1].axes[numbers.rhs_spec[1]])
                == 1
                < axis_size(values[0].axes[numbers.lhs_spec[1]])
            ):
                return args  # depthwise: each unit passes through by itself
            left, right = (numbers.lhs_spec[1],), (numbers.rhs_spec[1],)
        else:
            return args
        # The side that carries data; products of parameters alone are gated on the left.
        side = 1 if values[0].sources and not values[1].sources else 0
        axes = (left, right)[side]
        for d in axes:
            args = [*args]
            args[side] = self._gate(args[side], values[side], d)
        return args

    def _gate(self, array: Any, value: Value, d: int) -> Any:
        for name, units in self._units_on(value.axes[d]).items():
            gate = jnp.asarray(self.gates[name], array.dtype)
            shape = [1] * array.ndim
            shape[d] = units.size
            if gate.ndim == 2:
                at = self._batch_axis(value, name)
                examples = self._examples_on(value.axes[at])
                if not np.array_equal(examples, np.arange(gate.shape[0])):
                    gate = gate[examples]
                shape[at] = examples.size
            size = gate.shape[-1]
            if not np.array_equal(units, np.arange(size)):
                ones = jnp.ones((*gate.shape[:-1], 1), gate.dtype)
                gate = jnp.concatenate([gate, ones], -1)[..., units]
            if gate.ndim == 2 and at > d:
                gate = gate.T
            array = array * gate.reshape(shape)
        return array

    def _units_on(self, axis: Axis) -> dict[str, np.ndarray]:
        """name -> int[axis size]: the unit at each position, or `units` where there is none."""
        found: dict[str, np.ndarray] = {}
        for position, atom in zip(*self.traced.labels.axis_pairs(axis), strict=True):
            if int(atom) in self.unit_of:
                name, unit = self.unit_of[int(atom)]
                if name not in found:
                    none = jnp.shape(self.gates[name])[-1]
                    found[name] = np.full(axis_size(axis), none)
                found[name][position] = unit
        return found

    def _batch_axis(self, value: Value, name: str) -> int:
        for d, axis in enumerate(value.axes):
            _, atoms = self.traced.labels.axis_pairs(axis)
            if atoms.size and any(int(a) in self.example_of for a in atoms):
                return d
        raise ValueError(f"group {name!r} is read where no batch axis is; gate it per mini-batch")

    def _examples_on(self, axis: Axis) -> np.ndarray:
        examples = np.zeros(axis_size(axis), np.int64)
        for position, atom in zip(*self.traced.labels.axis_pairs(axis), strict=True):
            if int(atom) in self.example_of:
                examples[position] = self.example_of[int(atom)]
        return examples
