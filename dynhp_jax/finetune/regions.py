"""Stretches of a jaxpr that are a function of one array, position by position: activations.

A ReLU6 may be one equation, or a call of a function of several, or several equations in the open.
All of them are found as what they compute: elementwise equations on one array and constants, whose
result alone is read by others.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core as jex

from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.values import Analysis

# Calls of functions that can be differentiated forwards.
_CALLS = frozenset(("jit", "pjit", "call", "closed_call", "core_call", "custom_jvp_call"))
# Linear if one operand varies, and piecewise linear even if several do.
_LINEAR = frozenset(("mul", "div"))
_PIECEWISE = frozenset(
    ("abs", "add", "add_any", "and", "clamp", "convert_element_type", "copy", "copy_p", "eq", "ge")
    + ("gt", "le", "lt", "max", "min", "ne", "neg", "not", "or", "select_n", "sign", "sub", "xor")
)
_OF_CONSTANTS = frozenset(("broadcast_in_dim", "iota", "reshape", "convert_element_type"))


class Stretch(NamedTuple):
    """Equations that are a function of one array.

    Attributes:
      source: the variable of the array.
      result: that of the function's result, of the same shape.
      indices: of the equations.
      constants: indices of equations before them whose results they read, which make constants.
    """

    source: Any
    result: Any
    indices: tuple[int, ...]
    constants: tuple[int, ...]


def stretches(
    analysis: Analysis, piecewise: bool, without: Collection[int] = ()
) -> Iterator[Stretch]:
    """All of a jaxpr, none of them a part of another.

    Args:
      analysis: of the jaxpr.
      piecewise: whether only equations count that make piecewise linear functions of such ones.
      without: indices of equations that do not count.
    """
    jaxpr = analysis.jaxpr
    readers = collections.defaultdict(list)
    for k, eqn in enumerate(jaxpr.eqns):
        for atom in eqn.invars:
            if not isinstance(atom, jex.Literal):
                readers[atom].append(k)
    for atom in jaxpr.outvars:
        if not isinstance(atom, jex.Literal):
            readers[atom].append(len(jaxpr.eqns))
    ends: set[Any] = set()  # variables at which a stretch ends, though more could follow
    while True:
        members = _members(analysis, ends, piecewise, without)
        inside = {source: frozenset(indices) for source, indices in members.items()}
        # What equations outside of a stretch read of it.
        read = {
            source: [
                var
                for k in indices
                for var in jaxpr.eqns[k].outvars
                if not inside[source].issuperset(readers[var])
            ]
            for source, indices in members.items()
        }
        more = {found[0] for found in read.values() if len(found) > 1}
        if not more:
            break
        ends |= more
    makers = {var: k for k, eqn in enumerate(jaxpr.eqns) for var in eqn.outvars}
    for source, found in read.items():
        constants = _constants(analysis, members[source], makers)
        if found and _is_float(found[0]) and constants is not None:
            yield Stretch(source, found[0], tuple(members[source]), constants)


def _members(
    analysis: Analysis, ends: set[Any], piecewise: bool, without: Collection[int]
) -> dict[Any, list[int]]:
    """source -> indices of the equations that are functions of it alone."""
    source: dict[Any, Any] = {}
    members: dict[Any, list[int]] = collections.defaultdict(list)
    for index, eqn in enumerate(analysis.jaxpr.eqns):
        if len(eqn.outvars) != 1 or index in without:
            continue
        varying = [atom for atom in eqn.invars if not _is_constant(analysis, atom)]
        roots = {atom if atom in ends else source.get(atom, atom) for atom in varying}
        if len(roots) != 1:
            continue
        (root,) = roots
        shape = root.aval.shape
        if shape and _is_float(root) and _elementwise(analysis, index, shape, piecewise):
            source[eqn.outvars[0]] = root
            members[root].append(index)
    return members


def _elementwise(analysis: Analysis, index: int, shape: tuple[int, ...], piecewise: bool) -> bool:
    """Whether an equation treats all positions alike and makes an array of this shape."""
    eqn = analysis.jaxpr.eqns[index]
    name = eqn.primitive.name
    if tuple(eqn.outvars[0].aval.shape) != shape:
        return False
    if index in analysis.inner:
        return name in _CALLS and _all_elementwise(analysis.inner[index][0], shape, piecewise)
    if not piecewise:
        return name in ELEMENTWISE and name != "stop_gradient"
    varying = sum(not _is_constant(analysis, atom) for atom in eqn.invars)
    return name in _PIECEWISE or (name in _LINEAR and varying == 1)


def _all_elementwise(body: Analysis, shape: tuple[int, ...], piecewise: bool) -> bool:
    for index, eqn in enumerate(body.jaxpr.eqns):
        if all(_is_constant(body, atom) for atom in eqn.invars):
            if eqn.primitive.name not in (*_OF_CONSTANTS, *ELEMENTWISE):
                return False
        elif len(eqn.outvars) != 1 or not _elementwise(body, index, shape, piecewise):
            return False
    return True


def _constants(
    analysis: Analysis, indices: list[int], makers: dict[Any, int]
) -> tuple[int, ...] | None:
    """Equations that make the constants which these read; None if a constant comes from outside."""
    found: set[int] = set()
    left = [atom for k in indices for atom in analysis.jaxpr.eqns[k].invars]
    held = set(analysis.jaxpr.constvars)
    while left:
        atom = left.pop()
        if isinstance(atom, jex.Literal) or not analysis.values[atom].is_constant or atom in held:
            continue
        if atom not in makers:
            return None
        if makers[atom] not in found:
            found.add(makers[atom])
            left += analysis.jaxpr.eqns[makers[atom]].invars
    return tuple(sorted(found))


def _is_constant(analysis: Analysis, atom: Any) -> bool:
    return isinstance(atom, jex.Literal) or analysis.values[atom].is_constant


def _is_float(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.floating)
