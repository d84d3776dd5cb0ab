"""Walking a jaxpr: axes in, axes out, one rule per primitive.

`analyse` gives every variable of a jaxpr, and of the jaxprs inside it, a `Value`: the labels of its
axes, and what else the transforms ask for. Rules live beside each other by family of primitives
(`elementwise`, `shapes`, `contractions`, ...) and register themselves here. A primitive without a
rule pins every axis that reaches it, and is reported; nothing is assumed about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.labels import Axes, Axis, Labels


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
      sources: paths of the leaves of the variables that it was computed from, if from those alone;
        empty for whatever depends on an input.
      linear: whether it is a leaf up to transposition, reshape or a change of dtype.
      summed: the axes over which it is a sum.
      index: whose positions its entries are, if they were chosen by values (`choices`).
      counts: the axis of its own whose positions its entries are (0, 1, 2, ... along it), if any.
    """

    axes: Axes
    const: np.ndarray | None = None
    sources: frozenset[str] = frozenset()
    linear: bool = False
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
    """A jaxpr with the values of all its variables; bodies of inner jaxprs by equation index."""

    jaxpr: Any  # jax.extend.core.Jaxpr
    consts: Sequence[Any]
    labels: Labels
    values: dict[Any, Value]
    inner: dict[int, list[Analysis]]
    outputs: list[Value]

    def value(self, atom: Any) -> Value:
        """The value of a variable or literal operand."""
        if isinstance(atom, jex.Literal):
            array = np.asarray(atom.val)
            return Value(self.labels.fresh_axes(array.shape), array)
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
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)
    sums: list[Axis] = dataclasses.field(default_factory=list)
    outer: tuple[Any, ...] = ()  # the equations that hold the current jaxpr
    repeats: float = 1.0  # how often the current body runs
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
_BODIES: dict[str, Callable[..., tuple[list[Value], list[Analysis]]]] = {}
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
    """Registers a rule for primitives that hold jaxprs; it also returns the inner analyses."""

    def register(function: Callable) -> Callable:
        for name in primitives:
            _BODIES[name] = function
        return function

    return register


def known_primitives() -> tuple[str, ...]:
    """Names of all primitives that have a rule."""
    return tuple(sorted(_RULES | _BODIES))


def analyse(walk: Walk, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> Analysis:
    """Runs the rules over a jaxpr.

    Args:
      walk: the state shared with the surrounding analysis.
      jaxpr: an (open) jaxpr.
      consts: its constants.
      inputs: one value per input variable.

    Returns:
      The analysis; its `outputs` are the values of the jaxpr's results.
    """
    found = Analysis(jaxpr, consts, walk.labels, {}, {}, [])
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        found.values[var] = _constant(walk, const)
    found.values.update(zip(jaxpr.invars, inputs, strict=True))
    for index, eqn in enumerate(jaxpr.eqns):
        operands = [found.value(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _BODIES:
            outer, walk.outer = walk.outer, (*walk.outer, eqn)
            results, found.inner[index] = _BODIES[name](walk, eqn, operands)
            walk.outer = outer
        elif name in _RULES:
            results = _RULES[name](walk, eqn, operands)
        else:
            results = _unknown(walk, eqn, operands)
        results = [r if isinstance(r, Value) else Value(r) for r in results]
        results = _followed(walk, eqn, operands, results)
        for var, result in zip(eqn.outvars, results, strict=True):
            found.values[var] = _with_provenance(eqn, operands, result)
    found.outputs = [found.value(atom) for atom in jaxpr.outvars]
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


def _constant(walk: Walk, const: Any) -> Value:
    axes = walk.labels.fresh_axes(np.shape(const))
    traced = isinstance(const, jax.core.Tracer)
    known = not traced and not jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended)
    array = np.asarray(const) if known and const.size <= 1 << 16 else None
    counts = None if array is None else _counting_axis(array)
    return Value(axes, array, counts=counts)


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
    if result.sources:
        return result
    variable = [v for v in operands if v.const is None]
    if not variable or not all(v.sources for v in variable):
        return result
    sources = frozenset().union(*(v.sources for v in variable))
    linear = moves and operands[0].linear and eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    return dataclasses.replace(result, sources=sources, linear=linear)


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
