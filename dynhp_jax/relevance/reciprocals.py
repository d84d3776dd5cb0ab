"""Which values of a jaxpr depend on the inputs, and which of them only as reciprocals do.

The norm of a vector divides it in `x / s`, and multiplies it in `x * (1 / s)` and `x * s**-1`:
whoever treats denominators in a way of their own has to know reciprocals when they are factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

from dynhp_jax.jaxprs.constants import scan_counts
from dynhp_jax.jaxprs.values import Analysis

CONSTANT, RECIPROCAL, DATA = range(3)
# By jaxpr, the variables that are not constant.
Kinds = dict[Analysis, dict[Any, int]]

STOPS = frozenset({"stop_gradient", "rsqrt"})
_NAMES = """
reshape transpose squeeze broadcast_in_dim expand_dims rev slice dynamic_slice dynamic_update_slice
concatenate stack unstack split tile pad gather scatter convert_element_type reduce_precision copy
copy_p optimization_barrier device_put sharding_constraint reshard
"""
MOVES = frozenset(_NAMES.split())
# What leaves a reciprocal a reciprocal: moves, factors, powers, bounds and selections.
_KEEPS = MOVES | {"mul", "div", "neg", "abs", "sqrt", "cbrt", "square", "integer_pow", "pow"}
_KEEPS |= {"max", "min", "clamp", "select_n"}


def kind_of(atom: Any, known: dict[Any, int]) -> int:
    """The kind of an operand, given those of the variables of its jaxpr."""
    return CONSTANT if isinstance(atom, jex.Literal) else known.get(atom, CONSTANT)


def kinds(analysis: Analysis, of_inputs: Sequence[int], found: Kinds) -> list[int]:
    """Notes the kinds of the variables of a jaxpr and of the jaxprs inside it.

    Args:
      analysis: of the jaxpr.
      of_inputs: CONSTANT, RECIPROCAL or DATA, for each of its operands.
      found: is added to.

    Returns:
      The kinds of the results.
    """
    known = found.setdefault(analysis, {})
    known.update(zip(analysis.jaxpr.invars, of_inputs, strict=True))
    for index, eqn in enumerate(analysis.jaxpr.eqns):
        operands = [kind_of(atom, known) for atom in eqn.invars]
        if index in analysis.inner and eqn.primitive.name != "while":
            results = _of_bodies(eqn, analysis.inner[index], operands, found)
        else:
            results = [_of_result(analysis, eqn, operands)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, results, strict=True))
    return [kind_of(atom, known) for atom in analysis.jaxpr.outvars]


def _of_result(analysis: Analysis, eqn: Any, operands: list[int]) -> int:
    name, highest = eqn.primitive.name, max(operands, default=CONSTANT)
    if name in STOPS or highest == CONSTANT:
        return CONSTANT
    if _is_reciprocal(analysis, eqn, operands):
        return RECIPROCAL
    if name == "select_n":  # which case is taken says nothing about what it is
        return max(operands[1:]) or DATA
    if name == "pow" and operands[1] != CONSTANT:
        return DATA
    return highest if name in _KEEPS else DATA


def _is_reciprocal(analysis: Analysis, eqn: Any, operands: list[int]) -> bool:
    """A quotient with data in the denominator alone, or a power known to be negative."""
    name = eqn.primitive.name
    if name == "div":
        return operands[0] == CONSTANT
    if name == "integer_pow":
        return eqn.params["y"] < 0
    if name == "pow" and operands[1] == CONSTANT:
        exponent = analysis.value(eqn.invars[1]).const
        return exponent is not None and bool((exponent < 0).all())
    return False


def _of_bodies(eqn: Any, bodies: list[Analysis], operands: list[int], found: Kinds) -> list[int]:
    if eqn.primitive.name == "cond":
        every = [kinds(body, operands[1:], found) for body in bodies]
        return [max(branch) for branch in zip(*every, strict=True)]
    if eqn.primitive.name != "scan":
        return kinds(bodies[0], operands, found)
    consts, carry = scan_counts(eqn.params)
    while True:  # until the carry depends on nothing more
        results = kinds(bodies[0], operands, found)
        before = operands[consts : consts + carry]
        after = [max(pair) for pair in zip(before, results, strict=False)]
        if after == before:
            return results
        operands = [*operands[:consts], *after, *operands[consts + carry :]]
