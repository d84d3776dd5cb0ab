"""Gates on the units of a model that was never written for them.

A gate multiplies a unit where its value is read: at the operand of every matrix product or
convolution that sums over the group, or, which is the same, the rows of the kernel there. A product
of two units (an outer product of a group with itself) is multiplied by the gates of both. A closed
gate there is the same as a unit that is not there, whatever lies between the unit's production and
its use; so cut and masked models agree.

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

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from dynhp_jax.groups import Groups
from dynhp_jax.jaxprs.evaluate import Hook, Run
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.own_derivatives import read_by
from dynhp_jax.jaxprs.trace import InputPath, Path, Traced, trace, varying
from dynhp_jax.jaxprs.walk import Analysis, Value
from dynhp_jax.members import places
from dynhp_jax.unit_atoms import NONE, plain_atoms, unit_atoms


def gated(apply: Callable, groups: Groups) -> Callable:
    """Puts a gate on every unit of the chosen groups.

    Args:
      apply: `apply(variables, *inputs) -> outputs`; for evaluation or for training, as long as its
        variables are those of the groups.
      groups: from `find_groups`.

    Returns:
      `f(variables, gates, *inputs) -> outputs`. `gates` maps group names to f[units] (one draw for
      the mini-batch) or f[batch, units] (one for each example); groups that it leaves out are not
      gated. `f` can be jitted, differentiated and transformed again, also inside `jax.shard_map`.
      Functions with a derivative of their own (custom_vjp, custom_jvp) keep it where gates can
      stand on their operands.

    Raises (when called):
      ValueError: for an unknown group, a gate of the wrong shape, variables of other sizes than the
        groups', per-example gates on units that are read where no batch axis is, gates where
        integers are multiplied, gates on units that no matrix product or convolution reads, or,
        inside `shard_map`, gates that differ between devices on units that do not; when
        differentiated, for a gate that had to be inside a function with a derivative of its own.
    """

    def with_gates(variables: Any, gates: Mapping[str, Any], *inputs: Any) -> Any:
        traced = trace(apply, variables, inputs)
        _check(gates, groups, None if traced.batch is None else traced.batch.size)
        _check_sizes(gates, groups, traced)
        hook = _Gates(traced, groups, gates)
        leaves = jax.tree.leaves((variables, inputs))
        out = Run(traced.walk, hook=hook)(traced.analysis, leaves)
        hook.check_met()
        return jax.tree.unflatten(traced.out_tree, out)

    return with_gates


def _check(gates: Mapping[str, Any], groups: Groups, examples: int | None) -> None:
    groups.check_names(list(gates))
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


def mismatch(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What to say of a leaf of another shape than the groups expect."""
    return (
        f"leaf {path!r} has shape {tuple(found)}; the groups expect {tuple(wanted)} "
        "(after a cut, use groups.shrunk(keeps))"
    )


def _used(traced: Traced) -> set[Path]:
    """The leaves that the outputs depend on."""
    jaxpr = traced.analysis.jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return {path for path, needed in zip(traced.leaves, used, strict=True) if needed}


def _each(
    positions: np.ndarray, units: np.ndarray, times: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(positions, units) with a unit at a position as often as it is a factor there.

    A unit that has several atoms at a position is there as often as the most frequent of them.
    """
    keys, where = np.unique(positions * count + units, return_inverse=True)
    most = np.zeros(keys.size, np.int64)
    np.maximum.at(most, where, times)
    return np.divmod(np.repeat(keys, most), count)


def _product(gate: jax.Array, units: np.ndarray) -> jax.Array:
    """f[..., axis size]: the product of the gates [..., units] at each position (int[n, size])."""
    size = gate.shape[-1]
    if np.array_equal(units, np.arange(size)[None]):
        return gate
    gate = jnp.concatenate([gate, jnp.ones((*gate.shape[:-1], 1), gate.dtype)], -1)
    return functools.reduce(jnp.multiply, [gate[..., at] for at in units])


SMALL = 4  # a mini-batch is small if the kernel holds more than so many times its numbers


class _Gates(Hook):
    def __init__(self, traced: Traced, groups: Groups, gates: Mapping[str, Any]):
        self.traced, self.groups, self.gates = traced, groups, gates
        self.unit_of = {  # name -> int[atoms], -1 where none of its units is
            name: self._by_atom(*reversed(unit_atoms(traced, groups[name]))) for name in gates
        }
        # Where a factor of an axis has come down to one unit, no atom stands for it alone: a
        # reshape to [1, size] leaves the atoms of the other factor, or of all groups on the axis.
        last = [name for name in gates if groups[name].size == 1]
        owners = self._owners() if last else None
        self.unplaced = {
            name
            for name in last
            if (np.sum(mine := self.unit_of[name] >= 0) > 1 or owners[mine].max() > 1)
        }
        self.met: set[str] = set()
        self.reader: Any = None  # the contraction that is being gated
        batch = np.empty(0, np.int64) if traced.batch is None else traced.batch
        self.example_of = self._by_atom(traced.labels.find(batch), np.arange(batch.size))

    def _by_atom(self, atoms: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        table = np.full(len(self.traced.labels), -1)
        table[atoms] = numbers
        return table

    def _owners(self) -> np.ndarray:
        """int[atoms]: how many groups have units with this atom."""
        owners = np.zeros(len(self.traced.labels), int)
        for group in self.groups.values():
            members = [m for m in group.members if m.path in self.traced.leaves]
            atoms = [plain_atoms(self.traced, m)[1] for m in members]
            owners[np.unique(np.concatenate(atoms or [NONE[1]]))] += 1
        return owners

    def check_met(self) -> None:
        for name in sorted(self.unplaced - self.met):
            raise ValueError(
                f"the units of group {name!r} are read where they cannot be told from an axis of "
                "size one; leave its gate out"
            )
        for name in sorted(self.gates.keys() - self.met):
            if self._matters(name):
                raise ValueError(
                    f"no matrix product or convolution reads the units of group {name!r}, so its "
                    "gate would do nothing; leave it out, or multiply by it in the model"
                )

    def _matters(self, name: str) -> bool:
        """Whether units that were never met still do something here; what is not used need not be.

        They are looked at as a whole (a reduction), are results themselves, or are read by a leaf
        in a way that does not tell them apart.
        """
        labels, results = self.traced.labels, self.traced.analysis.outputs
        seen = [labels.axis_pairs(axis)[1] for value in results for axis in value.axes]
        looked_at = [*labels.flagged(), *labels.pinned()]
        members = [m for m in self.groups[name].members if m.path in self.traced.leaves]
        mine = [np.flatnonzero(self.unit_of[name] >= 0)]
        mine += [plain_atoms(self.traced, m)[1] for m in members]
        if np.isin(np.concatenate(mine), np.concatenate([looked_at, *seen])).any():
            return True
        used = _used(self.traced)
        return any(m.role == "in" and m.path in used for m in members)

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        primitive = eqn.primitive.name
        if primitive not in ("dot_general", "conv_general_dilated"):
            return args
        self.reader = eqn
        side = self._data_side(values)
        value, array = values[side], args[side]
        if primitive == "dot_general":
            leaf, kernel = values[1 - side], args[1 - side]
            contracted = eqn.params["dimension_numbers"][0]
            for d, row in zip(contracted[side], contracted[1 - side], strict=True):
                for name, units in self._units_on(value.axes[d], values).items():
                    if leaf.linear and self._on_rows(name, array, kernel):
                        kernel = self._gate(kernel, leaf, row, {name: units})
                    else:
                        array = self._gate(array, value, d, {name: units})
            args = [kernel, kernel]
        else:
            numbers = eqn.params["dimension_numbers"]
            read = values[1].axes[numbers.rhs_spec[1]]
            units = self._units_on(read, values)
            if side == 0:  # the features of a group, for each of the convolution's groups
                repeats = eqn.params["feature_group_count"]
                units = {name: np.tile(at, repeats) for name, at in units.items()}
            d = (numbers.lhs_spec[1], numbers.rhs_spec[1])[side]
            array = self._gate(array, value, d, units)
        return [array, args[1]] if side == 0 else [args[0], array]

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
                units = self._units_on(axis, [values[k]])
                units = {name: units[name] for name in units if name in names}
                args[k] = self._gate(args[k], values[k], d, units)
        return args

    def _reads(self, eqn: Any, values: list[Value]) -> tuple[int, frozenset[str]]:
        """The operand that an equation reads units from, and the groups of these."""
        side = self._data_side(values)
        numbers = eqn.params["dimension_numbers"]
        if eqn.primitive.name == "dot_general":
            axes = [values[side].axes[d] for d in numbers[0][side]]
        else:
            axes = [values[1].axes[numbers.rhs_spec[1]]]
        return side, frozenset().union(*(self._units_on(axis, values) for axis in axes))

    def _on_rows(self, name: str, data: Any, kernel: Any) -> bool:
        """Whether a gate had better multiply the rows of a kernel than the data.

        The product is the same. Of an input nothing else needs the gradient with respect to the
        data, which costs as much as the layer itself; but a small mini-batch takes less memory.
        """
        members = self.groups[name].members
        cheap = SMALL * jnp.size(data) >= jnp.size(kernel)
        shared = jnp.ndim(self.gates[name]) == 1
        return cheap and shared and any(m.role == "data" for m in members)

    def _data_side(self, values: list[Value]) -> int:
        """The operand that carries examples or else data; of parameters alone, the left one."""
        data = [side for side in (0, 1) if not values[side].sources]
        batched = [side for side in data if self._batch_axis(values[side]) is not None]
        return (batched or data or [0])[0]

    def _is_read(self, name: str, values: list[Value]) -> bool:
        """Whether a contraction whose operands share an atom with the group reads its units."""
        paths = frozenset().union(*(v.sources for v in values)) & set(self.groups.shapes)
        if not paths:
            return name not in self.unplaced
        return any(m.role == "in" and m.path in paths for m in self.groups[name].members)

    def _gate(self, array: Any, value: Value, d: int, on_axis: dict[str, np.ndarray]) -> Any:
        for name, units in on_axis.items():
            apart = tuple(sorted(varying(self.gates[name]) - varying(array)))
            if apart:
                raise ValueError(
                    f"gates of group {name!r} differ between devices along {apart}, and what"
                    " is read there does not; give all of these devices the same gates"
                )
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                array = self._as_result(array, name)
            gate = jnp.asarray(self.gates[name], array.dtype)
            shape = [1] * array.ndim
            shape[d] = units.shape[1]
            if gate.ndim == 2:
                at = self._batch_axis(value)
                if at is None or at == d:
                    raise ValueError(
                        f"group {name!r} is read where no batch axis is; gate it per mini-batch"
                    )
                examples = self._examples_on(value.axes[at])
                if not np.array_equal(examples, np.arange(gate.shape[0])):
                    gate = gate[examples]
                shape[at] = examples.size
            gate = _product(gate, units)
            if gate.ndim == 2 and at > d:
                gate = gate.T
            array = array * gate.reshape(shape)
        return array

    def _as_result(self, array: Any, name: str) -> Any:
        """Integers as the numbers that they are multiplied as, where these can be gated."""
        dtype = self.reader.outvars[0].aval.dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"group {name!r} is read by '{self.reader.primitive.name}' in {array.dtype}, where "
                "its gate would be rounded; leave it out, or quantise the model after gating it"
            )
        return array.astype(dtype)

    def _units_on(self, axis: Axis, values: list[Value]) -> dict[str, np.ndarray]:
        """name -> int[n, axis size]: the units at each position, `units` where there is none."""
        positions, atoms, times = self.traced.labels.occurrences(axis)
        found = {}
        for name, table in self.unit_of.items():
            at = table[atoms] >= 0
            if at.any() and self._is_read(name, values):
                self.met.add(name)
                count = jnp.shape(self.gates[name])[-1]
                there, units = _each(positions[at], table[atoms[at]], times[at], count)
                found[name] = places(units, there, axis_size(axis), count)
        return found

    def _batch_axis(self, value: Value) -> int | None:
        on = (d for d, axis in enumerate(value.axes) if self.traced.walk.has_examples(axis))
        return next(on, None)

    def _examples_on(self, axis: Axis) -> np.ndarray:
        positions, atoms = self.traced.labels.axis_pairs(axis)
        at = self.example_of[atoms] >= 0
        examples = np.zeros(axis_size(axis), np.int64)
        examples[positions[at]] = self.example_of[atoms[at]]
        return examples
