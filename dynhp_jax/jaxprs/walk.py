"""Walking a jaxpr: axes in, axes out, one rule per primitive.

`analyse` gives every variable of a jaxpr, and of the jaxprs inside it, a `Value`: the labels of its
axes, and what else the transforms ask for. Rules live beside each other by family of primitives
(`elementwise`, `shapes`, `contractions`, ...) and register themselves here. A primitive without a
rule pins every axis that reaches it, and is reported; nothing is assumed about it.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.labels import Axes, Axis, Labels, axis_size


@dataclasses.dataclass(frozen=True)
class Index:
    """What the entries of an integer array are: positions on axes.

    Attributes:
      axes: the axis; several for coordinates side by side along the array's last axis, None for one
        that is an ordinary number.
      spoiled: whether they are no more than numbers that were computed from positions.
    """

    axes: tuple[Axis | None, ...]
    spoiled: bool = False


SPOILED = Index((None,), spoiled=True)


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known about one array of the jaxpr.

    Attributes:
      axes: labels of each axis.
      const: the array itself where it is known without running the model (indices), else None.
      is_constant: whether it depends on no variable and no input. It stays whole, and each reader
        cuts a copy of its own; so it ties no two readers.
      sources: paths of the leaves of the variables that it was computed from, if from those alone;
        empty for whatever depends on an input.
      linear: whether it is a leaf up to transposition, reshape or a change of dtype.
      distinct: whether its entries are entries of one leaf, none of them twice: of a slice, of rows
        that are looked up by known positions.
      summed: the axes over which it is a sum.
      index: whose positions its entries are, if they were chosen by values (`choices`).
      counts: the axis of its own whose positions its entries are (0, 1, 2, ... along it), if any.
    """

    axes: Axes
    const: np.ndarray | None = None
    is_constant: bool = False
    sources: frozenset[str] = frozenset()
    linear: bool = False
    distinct: bool = False
    summed: Axes = ()
    index: Index | None = None
    counts: int | None = None


@dataclasses.dataclass(frozen=True)
class Contraction:
    """One matrix product or convolution: for FLOPs, and for who reads whom."""

    flops: float
    axes: Axes  # every axis that the work is proportional to


@dataclasses.dataclass(eq=False)
class Analysis:
    """A jaxpr with the values of all its variables, and those that equations see of them.

    Attributes:
      values: by variable.
      operands: by equation, its operands: the values, but copies of what may be cut anew for each
        reader (constants, and axes along which an array is repeated).
      inner: the bodies of inner jaxprs, by equation.
      outputs: the results, likewise.
    """

    jaxpr: Any  # jax.extend.core.Jaxpr
    consts: Sequence[Any]
    labels: Labels
    values: dict[Any, Value] = dataclasses.field(default_factory=dict)
    operands: list[list[Value]] = dataclasses.field(default_factory=list)
    inner: dict[int, list[Analysis]] = dataclasses.field(default_factory=dict)
    outputs: list[Value] = dataclasses.field(default_factory=list)

    def value(self, atom: Any) -> Value:
        """The value of a variable or literal."""
        if isinstance(atom, jex.Literal):
            array = np.asarray(atom.val)
            return Value(self.labels.fresh_axes(array.shape), array, is_constant=True)
        return self.values[atom]


@dataclasses.dataclass(eq=False)
class Walk:
    """State shared by one analysis: labels, contractions, roles of leaves, unknown primitives.

    Inside `shard_map` `examples_vary` has the mesh axes along which the examples differ.
    `sums` has the axes that are summed over, other than by contractions.
    """

    labels: Labels
    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    # (leaf path, role, atoms): the leaf's axis is read ('in') or produces units ('out') there.
    roles: list[tuple[str, str, np.ndarray]] = dataclasses.field(default_factory=list)
    # Atoms of axes along which two values that were computed of leaves alone are contracted.
    joined: list[np.ndarray] = dataclasses.field(default_factory=list)
    # Atoms of the groups of convolutions: channels at the same place of each go together.
    convolved: list[np.ndarray] = dataclasses.field(default_factory=list)
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)
    sums: list[Axis] = dataclasses.field(default_factory=list)
    outer: tuple[Any, ...] = ()  # the equations that hold the current jaxpr
    repeats: float = 1.0  # how often the current body runs
    # Axes along which an array is repeated, and copies of them, each for one reader.
    copies: list[tuple[Axis, Axis]] = dataclasses.field(default_factory=list)
    batch: np.ndarray | None = None  # atoms of the batch axis
    examples_vary: frozenset[str] = frozenset()

    def has_examples(self, axis: Axis) -> bool:
        """Whether positions of an axis are examples of the batch, or parts of one."""
        if self.batch is None:
            return False
        atoms = self.labels.axis_pairs(axis)[1]
        return bool(np.isin(atoms, self.labels.find(self.batch)).any())

    def pin(self, value: Value, reason: str) -> None:
        for axis in value.axes:
            self.labels.pin_axis(axis, reason)

    def as_number(self, value: Value, how: str) -> None:
        """Notes that positions (`Value.index`) are used for more than to find what is there."""
        for axis in value.index.axes if value.index else ():
            if axis is not None:
                self.labels.pin_axis(axis, f"its positions are numbers that reach {how}")

    def bind(self, value: Value) -> None:
        """Whatever reads this array sees the same positions of it."""
        for axis in value.axes:
            self.labels.bind_axis(axis)

    def own_copy(self, value: Value) -> Value:
        """A constant as one reader sees it, which may cut it as it likes."""
        if not value.is_constant:
            return value
        axes = self.labels.fresh_axes([axis_size(axis) for axis in value.axes])
        return dataclasses.replace(value, axes=axes, is_constant=False)

    def own_repetitions(self, value: Value, free: Sequence[int]) -> Value:
        """An array that is repeated along some axes, as one reader sees it."""
        axes = list(value.axes)
        for d in free:
            axes[d] = (self.labels.fresh(axis_size(axes[d])),)
            self.copies.append((value.axes[d], axes[d]))
        return dataclasses.replace(value, axes=tuple(axes))

    def tie_examples(self) -> None:
        """Repetitions that one reader knows to be of the examples are so for all readers."""
        for axis, copy in reversed(self.copies):
            if self.has_examples(copy):
                self.labels.unify(axis, copy, "the batch axis")
        for axis, copy in self.copies:
            if self.has_examples(axis):
                self.labels.unify(axis, copy, "the batch axis")

    def role(self, value: Value, role: str, axis: Axis) -> None:
        """Notes that a leaf is read ('in') or produces units ('out') along an axis."""
        atoms = self.labels.axis_pairs(axis)[1]
        for path in sorted(value.sources):  # several where leaves were joined or multiplied first
            self.roles.append((path, role, atoms))

    def join(self, left: Value, right: Value, axes: Sequence[Axis]) -> None:
        """Notes that a product sums over these axes, if both factors are of leaves alone."""
        if left.sources and right.sources:
            self.joined += [self.labels.axis_pairs(axis)[1] for axis in axes]

    def pinned_axes(self, shape: Sequence[int], reason: str) -> Axes:
        """New axes that nothing may cut."""
        axes = self.labels.fresh_axes(shape)
        for axis in axes:
            self.labels.pin_axis(axis, reason)
        return axes


# A rule maps (walk, equation, operand values) to the axes of each result, or to whole values.
Rule = Callable[[Walk, Any, list[Value]], list[Axes] | list[Value]]
_RULES: dict[str, Rule] = {}
# (operands as the bodies see them, results, bodies)
Bodies = tuple[list[Value], list[Value], list[Analysis]]
_BODIES: dict[str, Callable[..., Bodies]] = {}
# Primitives that only move or relabel the entries of a leaf (a broadcast if it repeats none).
MOVES = {
    "transpose",
    "reshape",
    "squeeze",
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
}
# Those that take parts of an array, or turn it round.
PARTS = {"slice", "dynamic_slice", "split", "unstack", "squeeze", "rev"}


# A rule for equations that take positions (`Value.index`): what their results are, as by the
# ordinary rule, and what more is known of them.
Follow = Callable[[Walk, Any, list[Value], list[Value]], list[Value]]
_FOLLOWS: dict[str, Follow] = {}


def follows(*primitives: str) -> Callable[[Follow], Follow]:
    """Registers a rule for primitives that may take positions; others make numbers of them."""

    def register(function: Follow) -> Follow:
        _FOLLOWS.update(dict.fromkeys(primitives, function))
        return function

    return register


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers a rule for primitives by name."""

    def register(function: Rule) -> Rule:
        for name in primitives:
            _RULES[name] = function
        return function

    return register


def body_rule(*primitives: str) -> Callable[[Callable], Callable]:
    """Registers a rule for primitives that hold jaxprs: their operands, results and bodies."""

    def register(function: Callable) -> Callable:
        for name in primitives:
            _BODIES[name] = function
        return function

    return register


def known_primitives() -> tuple[str, ...]:
    """Names of all primitives that have a rule."""
    return tuple(sorted(_RULES | _BODIES))


def family(primitive: str) -> str:
    """The first sentence about the rules of a primitive's family."""
    module = sys.modules[(_RULES | _BODIES)[primitive].__module__]
    return (module.__doc__ or "").strip().splitlines()[0]


def analyse(
    walk: Walk,
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Value],
    constant: Sequence[bool] | None = None,
) -> Analysis:
    """Runs the rules over a jaxpr.

    Args:
      walk: the state shared with the surrounding analysis.
      jaxpr: an (open) jaxpr.
      consts: its constants.
      inputs: one value per input variable.
      constant: which of its results may be constants for those who read them; None for all.

    Returns:
      The analysis; its `outputs` are the values of the jaxpr's results.
    """
    found = Analysis(jaxpr, consts, walk.labels)
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        found.values[var] = _constant(walk, const)
    found.values.update(zip(jaxpr.invars, inputs, strict=True))
    readers = _Readers(walk, found)
    for index, eqn in enumerate(jaxpr.eqns):
        operands = [readers.own(atom) for atom in eqn.invars]
        used, results = _equation(walk, found, index, eqn, operands)
        found.operands.append(used)
        for var, result in zip(eqn.outvars, results, strict=True):
            found.values[var] = _with_provenance(eqn, operands, result)
        readers.note(eqn.outvars)
    stay = constant or [True] * len(jaxpr.outvars)
    found.outputs = [
        value if may else walk.own_copy(value)
        for value, may in zip(map(readers.own, jaxpr.outvars), stay, strict=True)
    ]
    return found


def _followed(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """The results with what follows from operands that are positions on an axis."""
    name = eqn.primitive.name
    if any(v.index for v in operands):
        if name in _FOLLOWS:
            return _FOLLOWS[name](walk, eqn, operands, results)
        for value in operands:
            walk.as_number(value, f"'{name}'")
        return [
            dataclasses.replace(result, index=SPOILED) if _is_integer(var) else result
            for var, result in zip(eqn.outvars, results, strict=True)
        ]
    elif operands and operands[0].counts is not None and name in MOVES:
        (axis,), new = operands[0].axes[operands[0].counts], results[0].axes
        at = [d for d, other in enumerate(new) if len(other) == 1 and other[0] is axis]
        if len(at) == 1:
            return [dataclasses.replace(results[0], counts=at[0])]
    return results


def _is_integer(var: Any) -> bool:
    return jax.dtypes.issubdtype(var.aval.dtype, np.integer)


class _Readers:
    """Gives each reader of an array a copy of the axes along which it may be cut as one likes."""

    def __init__(self, walk: Walk, found: Analysis):
        self.walk, self.found = walk, found
        jaxpr = found.jaxpr
        self.count = collections.Counter(map(id, jaxpr.outvars))
        for eqn in jaxpr.eqns:
            self.count.update(map(id, eqn.invars))
        # By variable with several readers, or from outside, where there may be others.
        self.free: dict[Any, list[int]] = {}
        for var in jaxpr.invars:
            self._note(var)

    def note(self, results: Sequence[Any]) -> None:
        """Results of an equation have been found."""
        for var in results:
            if self.count[id(var)] > 1:
                self._note(var)

    def _note(self, var: Any) -> None:
        value = self.found.values[var]
        if not value.is_constant:
            free = [d for d, axis in enumerate(value.axes) if self.walk.labels.is_free(axis)]
            if free:
                self.free[var] = free

    def own(self, atom: Any) -> Value:
        """The value of an operand, or of a result, for one equation or caller."""
        value = self.found.value(atom)
        if isinstance(atom, jex.Literal) or atom not in self.free:
            return value
        return self.walk.own_repetitions(value, self.free[atom])


def _equation(
    walk: Walk, found: Analysis, index: int, eqn: Any, operands: list[Value]
) -> tuple[list[Value], list[Value]]:
    """(operands as the equation uses them, results); notes the bodies of an equation."""
    name, fixed = eqn.primitive.name, all(value.is_constant for value in operands)
    if name in _BODIES:
        outer, walk.outer = walk.outer, (*walk.outer, eqn)
        used, results, found.inner[index] = _BODIES[name](walk, eqn, operands)
        walk.outer = outer
        return used, _followed(walk, eqn, operands, results)
    if not fixed:
        operands = [walk.own_copy(value) for value in operands]
    if name in _RULES:
        results = _RULES[name](walk, eqn, operands)
    elif fixed:
        results = [Value(walk.labels.fresh_axes(var.aval.shape)) for var in eqn.outvars]
    else:
        results = _unknown(walk, eqn, operands)
    results = [each if isinstance(each, Value) else Value(each) for each in results]
    results = _followed(walk, eqn, operands, results)
    if fixed:  # whole, so that its entries are mere numbers, whatever of
        results = [dataclasses.replace(each, is_constant=True, index=None) for each in results]
    return operands, results


def _constant(walk: Walk, const: Any) -> Value:
    axes = walk.labels.fresh_axes(np.shape(const))
    traced = isinstance(const, jax.core.Tracer)
    known = not traced and not jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended)
    array = np.asarray(const) if known and const.size <= 1 << 16 else None
    counts = None if array is None else _counting_axis(array)
    return Value(axes, array, is_constant=True, counts=counts)


def _counting_axis(array: np.ndarray) -> int | None:
    """The axis along which the entries are 0, 1, 2, ..."""
    if np.issubdtype(array.dtype, np.integer):
        for d, size in enumerate(array.shape):
            if size > 1 and (np.moveaxis(array, d, -1) == np.arange(size)).all():
                return d
    return None


def _with_provenance(eqn: Any, operands: list[Value], result: Value) -> Value:
    moves = eqn.primitive.name in MOVES
    if moves and operands[0].summed:
        result = dataclasses.replace(result, summed=operands[0].summed)
    part = bool(operands) and operands[0].distinct and _keeps_apart(eqn, operands)
    distinct = result.distinct or part  # a body has told of its results
    if result.sources:
        return dataclasses.replace(result, distinct=distinct)
    variable = [v for v in operands if not v.is_constant]
    if not variable or not all(v.sources for v in variable):
        return result
    sources = frozenset().union(*(v.sources for v in variable))
    linear = distinct and moves and operands[0].linear
    return dataclasses.replace(result, sources=sources, linear=linear, distinct=distinct)


def _keeps_apart(eqn: Any, operands: list[Value]) -> bool:
    """Whether each entry of the results is an entry of the first operand, none of them twice."""
    name = eqn.primitive.name
    if name in MOVES:
        return eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    if name == "gather":
        return _looks_up_once(eqn, operands[1])
    return name in PARTS


def _looks_up_once(eqn: Any, indices: Value) -> bool:
    """Whether a gather takes rows at known positions, each of them once, or a single one."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims or any(sizes[d] != 1 for d in numbers.start_index_map):
        return False
    if len(indices.axes) == 1:
        return True
    if indices.const is None:
        return False
    places = indices.const.reshape(-1, indices.const.shape[-1])
    limits = [eqn.invars[0].aval.shape[d] for d in numbers.start_index_map]
    inside = bool(((places >= 0) & (places < limits)).all())
    return inside and np.unique(places, axis=0).shape == places.shape


def _unknown(walk: Walk, eqn: Any, operands: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    walk.unknown[name] = walk.unknown.get(name, 0) + 1
    reason = f"reaches '{name}', which has no rule"
    for value in operands:
        walk.pin(value, reason)
    results = [Value(walk.pinned_axes(var.aval.shape, reason)) for var in eqn.outvars]
    return [
        dataclasses.replace(result, index=SPOILED) if _is_integer(var) else result
        for var, result in zip(eqn.outvars, results, strict=True)
    ]
