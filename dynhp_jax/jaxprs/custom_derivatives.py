"""Functions with a derivative of their own: what they read straight from their operands.

Nothing can be put inside such a function without losing its derivative. But where all that it does
with an operand is to multiply it by something else, what would multiply it there can multiply it
outside: the values are the same, and the derivative stays the function's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.extend import core as jex

from dynhp_jax.jaxprs.constants import CALLS
from dynhp_jax.jaxprs.rules.contractions import CONTRACTIONS
from dynhp_jax.jaxprs.values import MOVES, Analysis, Value

# Equations that may read units from an operand.
READERS = frozenset({*CONTRACTIONS, "reduce_sum"})
# (equation, operand values) -> the operand that it reads units from, and the groups of these.
Reader = Callable[[Any, list[Value]], tuple[int, frozenset[str]]]


@dataclasses.dataclass
class Read:
    """What a function reads.

    Attributes:
      by_operand: index of an operand -> the groups read from it, and from it alone by products.
      inside: groups that are read from what the function computes, or from an operand that it also
        uses otherwise.
    """

    by_operand: dict[int, frozenset[str]]
    inside: frozenset[str]


def read_by(body: Analysis, reader: Reader) -> Read:
    """Which groups the body of a function reads, and from which of its operands.

    Args:
      body: of the function.
      reader: what an equation reads; asked for `READERS` only.
    """
    uses = _Uses(reader)
    origin = {var: k for k, var in enumerate(body.jaxpr.invars)}
    uses.walk(body, origin)
    for atom in body.jaxpr.outvars:
        uses.note(_of(atom, origin), frozenset())
    plain = {
        k: next(iter(groups))
        for k, groups in uses.of_operand.items()
        if len(groups) == 1 and frozenset() not in groups
    }
    mixed = (g for k, groups in uses.of_operand.items() if k not in plain for g in groups)
    return Read(plain, frozenset().union(*mixed, *uses.of_none))


class _Uses:
    def __init__(self, reader: Reader):
        self.reader = reader
        self.of_operand: dict[int, set[frozenset[str]]] = {}  # the groups that each use reads
        self.of_none: list[frozenset[str]] = []

    def note(self, operand: int | None, groups: frozenset[str]) -> None:
        if operand is None:
            self.of_none.append(groups)
        else:
            self.of_operand.setdefault(operand, set()).add(groups)

    def walk(self, body: Analysis, origin: dict[Any, int]) -> None:
        """Notes every use of what `origin` maps to operands; moves of it are added to `origin`."""
        for index, eqn in enumerate(body.jaxpr.eqns):
            name = eqn.primitive.name
            operands = [_of(atom, origin) for atom in eqn.invars]
            if index in body.inner and name in CALLS:
                inner = body.inner[index][0]
                passed = dict(zip(inner.jaxpr.invars, operands, strict=True))
                within = {var: k for var, k in passed.items() if k is not None}
                self.walk(inner, within)
                results = [_of(atom, within) for atom in inner.jaxpr.outvars]
                moved = zip(eqn.outvars, results, strict=True)
                origin.update({var: k for var, k in moved if k is not None})
            elif index in body.inner:
                for inner in body.inner[index]:  # what a loop carries is not followed
                    self.walk(inner, {})
                self._note_all(operands)
            elif name in MOVES and _stays_real(eqn):
                if operands[0] is not None:
                    origin[eqn.outvars[0]] = operands[0]
            else:
                self._note_equation(eqn, body.operands[index], operands)

    def _note_all(self, operands: list[int | None]) -> None:
        for operand in operands:
            if operand is not None:
                self.note(operand, frozenset())

    def _note_equation(self, eqn: Any, values: list[Value], operands: list[int | None]) -> None:
        if eqn.primitive.name not in READERS:
            self._note_all(operands)
            return
        side, groups = self.reader(eqn, values)
        self.note(operands[side], groups)
        self._note_all([operand for k, operand in enumerate(operands) if k != side])


def _of(atom: Any, origin: dict[Any, int]) -> int | None:
    return None if isinstance(atom, jex.Literal) else origin.get(atom)


def _stays_real(eqn: Any) -> bool:
    return all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (eqn.invars[0], eqn.outvars[0]))
