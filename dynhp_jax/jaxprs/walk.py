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
class Value:
    """What is known about one array of the jaxpr.

    Attributes:
      axes: labels of each axis.
      const: the array itself where it is known without running the model (indices), else None.
      sources: paths of the leaves of the variables that it was computed from, if from those alone;
        empty for whatever depends on an input.
      linear: whether it is a leaf up to transposition, reshape or a change of dtype.
      summed: the axes over which it is a sum.
    """

    axes: Axes
    const: np.ndarray | None = None
    sources: frozenset[str] = frozenset()
    linear: bool = False
    summed: Axes = ()


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
    """

    labels: Labels
    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    # (leaf path, role, atoms): the leaf's axis is read ('in') or produces units ('out') there.
    roles: list[tuple[str, str, np.ndarray]] = dataclasses.field(default_factory=list)
    # Atoms of axes along which two values that were computed of leaves alone are contracted.
    joined: list[np.ndarray] = dataclasses.field(default_factory=list)
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)
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
            results, found.inner[index] = _BODIES[name](walk, eqn, operands)
        elif name in _RULES:
            results = _RULES[name](walk, eqn, operands)
        else:
            results = _unknown(walk, eqn, operands)
        for var, result in zip(eqn.outvars, results, strict=True):
            if not isinstance(result, Value):
                result = Value(result)
            found.values[var] = _with_provenance(eqn, operands, result)
    found.outputs = [found.value(atom) for atom in jaxpr.outvars]
    return found


def _constant(walk: Walk, const: Any) -> Value:
    axes = walk.labels.fresh_axes(np.shape(const))
    traced = isinstance(const, jax.core.Tracer)
    known = not traced and not jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended)
    return Value(axes, np.asarray(const) if known and const.size <= 1 << 16 else None)


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


def _unknown(walk: Walk, eqn: Any, operands: list[Value]) -> list[Axes]:
    name = eqn.primitive.name
    walk.unknown[name] = walk.unknown.get(name, 0) + 1
    reason = f"reaches '{name}', which has no rule"
    for value in operands:
        walk.pin(value, reason)
    return [walk.pinned_axes(var.aval.shape, reason) for var in eqn.outvars]
