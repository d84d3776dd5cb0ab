"""What is known of the arrays of a jaxpr, and the rules that find it: axes in, axes out.

Every variable has a `Value`: the labels of its axes, and what else the transforms ask for. Rules
live beside each other by family of primitives (`elementwise`, `shapes`, `contractions`, ...) and
register themselves here; `analysis` runs them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

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
RULES: dict[str, Rule] = {}
# (operands as the bodies see them, results, bodies)
Bodies = tuple[list[Value], list[Value], list[Analysis]]
BODIES: dict[str, Callable[..., Bodies]] = {}
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
FOLLOWS: dict[str, Follow] = {}


def follows(*primitives: str) -> Callable[[Follow], Follow]:
    """Registers a rule for primitives that may take positions; others make numbers of them."""

    def register(function: Follow) -> Follow:
        FOLLOWS.update(dict.fromkeys(primitives, function))
        return function

    return register


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers a rule for primitives by name."""

    def register(function: Rule) -> Rule:
        for name in primitives:
            RULES[name] = function
        return function

    return register


def body_rule(*primitives: str) -> Callable[[Callable], Callable]:
    """Registers a rule for primitives that hold jaxprs: their operands, results and bodies."""

    def register(function: Callable) -> Callable:
        for name in primitives:
            BODIES[name] = function
        return function

    return register


def known_primitives() -> tuple[str, ...]:
    """Names of all primitives that have a rule."""
    return tuple(sorted(RULES | BODIES))


def family(primitive: str) -> str:
    """The first sentence about the rules of a primitive's family."""
    module = sys.modules[(RULES | BODIES)[primitive].__module__]
    return (module.__doc__ or "").strip().splitlines()[0]
