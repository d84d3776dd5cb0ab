"""Where a unit that is zero is still zero: whether a sum over units can do without it.

A unit that is made as zero (by the rows of its kernel, an embedding, a bias) stays zero in products
and in functions with f(0) = 0, and a sum does not see it: the sum of squares of an RMSNorm over the
units that are left is that of all. Behind other functions, or once the mean is subtracted, it is no
longer zero; to leave it out of a sum is then to change the function.

`flag_sums` follows every value of a jaxpr forwards, axis by axis, by a rule per primitive. What has
no rule is taken not to be zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.constants import scan_counts
from dynhp_jax.jaxprs.labels import Axis
from dynhp_jax.jaxprs.naming import Reduced
from dynhp_jax.jaxprs.values import Analysis, Value, Walk

# What an array holds, along one of its axes, at a unit that is made as zero:
NIL = 0  # zero, as everywhere
ZERO = 1  # zero, because the unit is
OWN = 2  # what variables or constants along this axis make it (bias, scale): it goes with the unit
SAME = 3  # what it is at every other position
LOUD = 4  # something else


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of an array: whether it depends on inputs, and the states of its axes."""

    data: bool
    axes: tuple[int, ...]
    nil: bool = False

    def along(self, d: int, repeated: bool = False) -> int:
        """The state along an axis of a result that this is an operand of."""
        if self.nil:
            return NIL
        return SAME if repeated or not self.axes else self.axes[d]


Rule = Callable[["Zeros", list[Value], Any, list[Known]], "Known | list[Known]"]
RULES: dict[str, Rule] = {}


def zero_rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers a rule (pass, values, equation, operands) -> result or results, by names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, function))
        return function

    return register


def added(states: Iterable[int]) -> int:
    """The state of a sum, a choice or a bound of these, or of positions that are joined."""
    states = set(states) - {NIL}
    if not states:
        return NIL
    if states <= {ZERO, OWN}:
        return ZERO if ZERO in states else OWN
    return SAME if states == {SAME} else LOUD


def multiplied(states: Iterable[int]) -> int:
    """The state of a product. Of what is no longer zero its scale makes no zero (LayerNorm's)."""
    states = set(states)
    for state in (NIL, ZERO, LOUD, OWN):
        if state in states:
            return state
    return SAME


def result(operands: Sequence[Known], axes: Iterable[int], nil: bool = False) -> Known:
    """A result with these states; what depends on no input is of the unit's own."""
    axes = tuple(axes)
    if any(known.data for known in operands):
        return Known(True, axes, nil)
    return Known(False, tuple(OWN if state in (ZERO, LOUD) else state for state in axes), nil)


class Zeros:
    """One pass: what is known of the values, and the axes that are looked at as a whole."""

    def __init__(self, walk: Walk, free: np.ndarray):
        self.labels = walk.labels
        self.free = free  # bool[atoms]: what a cut can take away
        self.sums: list[tuple[Axis, bool, Reduced]] = []  # whether a zero unit adds nothing to it
        self.reads: list[Axis] = []  # contractions that read what is not zero
        self.outer: tuple[Any, ...] = ()  # the equations that hold the current jaxpr

    def matters(self, axis: Axis) -> bool:
        """Whether an axis can lose positions."""
        return any(self.free[digit].any() for digit in axis)

    def run(self, analysis: Analysis, inputs: Sequence[Known]) -> list[Known]:
        """What is known of the results of a jaxpr, given its inputs."""
        known: dict[Any, Known] = {}
        for var in analysis.jaxpr.constvars:
            known[var] = constant(analysis.values[var].const, len(analysis.values[var].axes))
        known.update(zip(analysis.jaxpr.invars, inputs, strict=True))

        def of(atom: Any) -> Known:
            if isinstance(atom, jex.Literal):
                return constant(np.asarray(atom.val), np.ndim(atom.val))
            return known[atom]

        for index, eqn in enumerate(analysis.jaxpr.eqns):
            operands = [of(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if index in analysis.inner:
                outer, self.outer = self.outer, (*self.outer, eqn)
                results = BODIES.get(name, _call)(self, eqn, analysis.inner[index], operands)
                self.outer = outer
            else:
                results = RULES.get(name, unknown)(self, analysis.operands[index], eqn, operands)
            if isinstance(results, Known):
                results = [results] * len(eqn.outvars)
            known.update(zip(eqn.outvars, results, strict=True))
        return [of(atom) for atom in analysis.jaxpr.outvars]

    def sum(self, eqn: Any, axis: Axis, state: int) -> None:
        """Notes a sum over an axis."""
        if self.matters(axis):
            self.sums.append((axis, state in (NIL, ZERO), Reduced(eqn, self.outer)))

    def read(self, axis: Axis, operands: list[Known], state: int) -> None:
        """Notes a contraction over an axis."""
        if state in (SAME, LOUD) and any(known.data for known in operands) and self.matters(axis):
            self.reads.append(axis)


def constant(array: np.ndarray | None, rank: int) -> Known:
    """What is known of a constant."""
    return Known(False, (OWN,) * rank, array is not None and not np.any(array))


def unknown(zeros: Zeros, values: list[Value], eqn: Any, operands: list[Known]) -> list[Known]:
    """Results that may be anything."""
    return [result(operands, (LOUD,) * len(var.aval.shape)) for var in eqn.outvars]


def flag_sums(
    walk: Walk,
    analysis: Analysis,
    data: Sequence[bool],
    free: np.ndarray,
    read_anywhere: bool = False,
) -> None:
    """Flags what is summed over with units that are not zero where they are made as zero.

    So are units whose sums are exact but which are read where they no longer are zero (behind a
    LayerNorm that has its variance from sums of squares): to mask them where they are made would
    then be another function than to cut them.

    Args:
      walk: its labels are final but for flags.
      analysis: of the whole function.
      data: by operand of it, whether it is an input.
      free: the atoms (without parts) that can be cut.
      read_anywhere: whether units may be read where they are no longer zero: to cut them is then to
        mask them where they are read, in sums and products, and not where they are made.
    """
    zeros = Zeros(walk, walk.labels.dead_mask(free))
    if not any(zeros.matters(axis) for axis in walk.sums):
        return
    inputs = [
        Known(is_data, (ZERO if is_data else OWN,) * len(analysis.values[var].axes))
        for var, is_data in zip(analysis.jaxpr.invars, data, strict=True)
    ]
    zeros.run(analysis, inputs)
    leaves = walk.labels.leaves
    read = np.concatenate(
        [np.empty(0, np.int64), *(digit for axis in zeros.reads for digit in axis)]
    )
    loud = leaves(read) if read.size else read
    for axis, exact, reason in zeros.sums:
        if not exact:
            walk.labels.flag_axis(axis, reason, left_out=True)
        elif loud.size and not read_anywhere:
            atoms = [leaves(digit) for digit in axis]
            some = tuple(each[np.isin(each, loud)] for each in atoms)
            walk.labels.flag_axis(some, reason, left_out=True)


# -- bodies: (pass, equation, their analyses, operands) -> what is known of the results ------------


def _call(zeros: Zeros, eqn: Any, bodies: list[Analysis], operands: list[Known]) -> list[Known]:
    return zeros.run(bodies[0], operands)


def _cond(zeros: Zeros, eqn: Any, bodies: list[Analysis], operands: list[Known]) -> list[Known]:
    every = [zeros.run(body, operands[1:]) for body in bodies]
    return [either(results) for results in zip(*every, strict=True)]


def _scan(zeros: Zeros, eqn: Any, bodies: list[Analysis], operands: list[Known]) -> list[Known]:
    consts, carry = scan_counts(eqn.params)
    stacked = [Known(k.data, k.axes[1:], k.nil) for k in operands[consts + carry :]]
    start = operands[consts : consts + carry]
    while True:
        results = zeros.run(bodies[0], [*operands[:consts], *start, *stacked])
        before, start = start, [either(p) for p in zip(start, results[:carry], strict=True)]
        if start == before:
            break
    steps = [Known(k.data, (LOUD, *k.axes), k.nil) for k in results[carry:]]
    return [*start, *steps]


def _while(zeros: Zeros, eqn: Any, bodies: list[Analysis], operands: list[Known]) -> list[Known]:
    of_test, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body = bodies
    shared, state = operands[of_test : of_test + of_body], operands[of_test + of_body :]
    while True:
        results = zeros.run(body, [*shared, *state])
        before, state = state, [either(pair) for pair in zip(state, results, strict=True)]
        if state == before:
            break
    zeros.run(test, [*operands[:of_test], *state])
    return state


def either(cases: Sequence[Known]) -> Known:
    """One of several arrays of a shape, it is not known which."""
    ranks = [known.axes for known in cases]
    axes = (added(known.along(d) for known in cases) for d in range(len(ranks[0])))
    return result(cases, axes, all(known.nil for known in cases))


BODIES = {"scan": _scan, "while": _while, "cond": _cond}
