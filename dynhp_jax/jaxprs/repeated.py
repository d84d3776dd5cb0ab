"""Along which axes a constant is the same at all positions, also where it is too large to be held.

A causal mask is the same for all heads: it is made of positions in time, and broadcast. A pass over
a jaxpr follows its constants by a rule per primitive; what has no rule is taken to differ. Small
constants are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.constants import CALLS, scan_counts
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE, IDENTITIES
from dynhp_jax.jaxprs.rules.reductions import CUMULATIVE, REDUCTIONS
from dynhp_jax.jaxprs.rules.shapes import stretches
from dynhp_jax.jaxprs.values import Analysis

Dims = frozenset[int]  # axes along which an array is the same
NONE: Dims = frozenset()

# (equation, one per operand) -> one for all results.
Rule = Callable[[Any, Sequence[Dims]], Iterable[int]]
_RULES: dict[str, Rule] = {}


class Repeated:
    """The axes along which the constants of a jaxpr, and of those inside it, are the same."""

    def __init__(self, analysis: Analysis):
        self._known: dict[Analysis, dict[Any, Dims]] = {}
        self._run(analysis, [NONE] * len(analysis.jaxpr.invars))

    def dims(self, analysis: Analysis, atom: Any) -> Dims:
        """Of a variable or literal of the jaxpr or of one inside it; none if it is no constant."""
        if isinstance(atom, jex.Literal):
            return same_along(np.asarray(atom.val))
        single = (d for d, size in enumerate(atom.aval.shape) if size == 1)
        return self._known[analysis][atom].union(single)

    def _run(self, analysis: Analysis, inputs: Sequence[Dims]) -> list[Dims]:
        known = self._known[analysis] = dict(zip(analysis.jaxpr.invars, inputs, strict=True))
        for var, const in zip(analysis.jaxpr.constvars, analysis.consts, strict=True):
            traced = isinstance(const, jax.core.Tracer)
            typed = jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended)
            known[var] = NONE if traced or typed else same_along(np.asarray(const))
        for index, eqn in enumerate(analysis.jaxpr.eqns):
            operands = [self.dims(analysis, atom) for atom in eqn.invars]
            if index in analysis.inner:
                found = self._bodies(eqn, analysis.inner[index], operands)
            else:
                rule = _RULES.get(eqn.primitive.name)
                found = [frozenset(rule(eqn, operands)) if rule else NONE] * len(eqn.outvars)
            for var, dims in zip(eqn.outvars, found, strict=True):
                value = analysis.values[var]
                if value.const is not None:
                    dims = same_along(value.const)
                known[var] = dims if value.is_constant else NONE
        return [self.dims(analysis, atom) for atom in analysis.jaxpr.outvars]

    def _bodies(self, eqn: Any, bodies: list[Analysis], operands: list[Dims]) -> list[Dims]:
        """What loops carry, and what they or branches result in, may differ."""
        name, unknown = eqn.primitive.name, [NONE] * len(eqn.outvars)
        if name in CALLS:
            return self._run(bodies[0], operands)
        if name == "scan":
            consts, carry = scan_counts(eqn.params)
            steps = [frozenset(d - 1 for d in dims if d) for dims in operands[consts + carry :]]
            self._run(bodies[0], [*operands[:consts], *[NONE] * carry, *steps])
        elif name == "while":
            of_test, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
            shared = (operands[:of_test], operands[of_test : of_test + of_body])
            for body, known in zip(bodies, shared, strict=True):
                self._run(body, [*known, *unknown])
        else:
            for body in bodies:
                self._run(body, operands[1:])
        return unknown


def same_along(array: np.ndarray) -> Dims:
    """The axes of an array along which all its positions hold the same.

    >>> sorted(same_along(np.array([[1, 2], [1, 2]])))
    [0]
    """

    def same(d: int) -> bool:
        moved = np.moveaxis(array, d, 0)
        # Most arrays that differ do so from the first position to the second.
        return all(bool((moved[1:end] == moved[:1]).all()) for end in (2, None))

    return frozenset(d for d in range(array.ndim) if same(d))


def _rule(*primitives: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(primitives, function))
        return function

    return register


@_rule(*ELEMENTWISE, *IDENTITIES, "sort")
def _together(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    """An operand that is a scalar, or has one position along an axis, is the same everywhere."""
    for d in range(eqn.outvars[0].aval.ndim):
        pairs = zip(eqn.invars, operands, strict=True)
        if all(var.aval.ndim == 0 or d in dims for var, dims in pairs):
            yield d


@_rule("broadcast_in_dim")
def _broadcast_in_dim(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    source = {d: k for k, d in enumerate(eqn.params["broadcast_dimensions"])}
    return (d for d in range(len(eqn.params["shape"])) if source.get(d) in (None, *operands[0]))


@_rule("iota")
def _iota(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    return (d for d in range(len(eqn.params["shape"])) if d != eqn.params["dimension"])


@_rule("transpose")
def _transpose(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    return (d for d, k in enumerate(eqn.params["permutation"]) if k in operands[0])


@_rule("reshape")
def _reshape(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    """Axes that are joined or divided are the same if all are that they come from."""
    old, new = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    order = eqn.params["dimensions"] or range(len(old))
    if 0 in new:
        return
    for i0, i, j0, j in stretches([old[d] for d in order], new):
        if operands[0].issuperset(order[i0:i]):
            yield from range(j0, j)


@_rule(*REDUCTIONS, "argmax", "argmin", "squeeze")
def _without(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    gone = eqn.params["dimensions" if eqn.primitive.name == "squeeze" else "axes"]
    left = [d for d in range(eqn.invars[0].aval.ndim) if d not in gone]
    return (k for k, d in enumerate(left) if d in operands[0])


@_rule(*CUMULATIVE)
def _cumulative(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    return operands[0] - {eqn.params["axis"]}


@_rule("rev", "slice", "split", "dynamic_slice", "tile")
def _parts(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    """Parts of what is the same, or copies; the other operands say where they lie."""
    return operands[0]


@_rule("concatenate")
def _concatenate(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    return frozenset.intersection(*operands) - {eqn.params["dimension"]}


@_rule("pad")
def _pad(eqn: Any, operands: Sequence[Dims]) -> Iterable[int]:
    config = enumerate(eqn.params["padding_config"])
    return (d for d, each in config if d in operands[0] and not any(each))
