"""Runs the rules over a jaxpr: a `Value` for every variable, and what each equation sees of them.

A primitive without a rule pins every axis that reaches it, and is reported; nothing is assumed.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.provenance import with_provenance
from dynhp_jax.jaxprs.values import BODIES, FOLLOWS, MOVES, RULES, SPOILED, Analysis, Value, Walk


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
            found.values[var] = with_provenance(eqn, operands, result)
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
        if name in FOLLOWS:
            return FOLLOWS[name](walk, eqn, operands, results)
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
    if name in BODIES:
        outer, walk.outer = walk.outer, (*walk.outer, eqn)
        used, results, found.inner[index] = BODIES[name](walk, eqn, operands)
        walk.outer = outer
        return used, _followed(walk, eqn, operands, results)
    if not fixed:
        operands = [walk.own_copy(value) for value in operands]
    if name in RULES:
        results = RULES[name](walk, eqn, operands)
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
