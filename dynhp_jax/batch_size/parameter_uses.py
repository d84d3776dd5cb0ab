"""Every use of a model's trained leaves: where they meet the examples of a batch.

A leaf meets the examples where an equation makes a result with a batch axis of it, or of something
that was computed of it without them. The gradient of one example is a sum over all these places,
so the norm of its share at one of them is the whole norm only if there is no other. A leaf that
reaches an output without meeting the examples has a part in the gradient that no place shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.jaxprs.constants import scan_counts
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.elementwise import IDENTITIES
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.values import Analysis, Value

Leaves = frozenset[Path]
# An equation and the values of its operands. The equation alone may stand for several places: calls
# of one function share its jaxpr.
Place = tuple[int, ...]

_NONE: Leaves = frozenset()
# What has no derivative makes constants, whatever of.
_CONSTANT = frozenset({"ceil", "floor", "round", "sign", "stop_gradient"})
_LOOKED_UP = " after a look-up of rows whose positions repeat, or are not known beforehand"


class Use(NamedTuple):
    """A place where a leaf meets the examples.

    Attributes:
      path: of the leaf.
      how: name of the primitive.
      place: which equation, on which operands.
      result: the equation's, with examples.
    """

    path: Path
    how: str
    place: Place
    result: Value


def place(eqn: Any, values: list[Value]) -> Place:
    """What tells this equation on these operands from all others."""
    known = [v for atom, v in zip(eqn.invars, values, strict=True) if not _literal(atom)]
    return (id(eqn), *map(id, known))


class Uses:
    """The uses of the trained leaves of a traced function.

    Args:
      traced: the function.
      trained: paths of the leaves that count.
      batched: whether positions of an axis are examples, or parts of one.
    """

    def __init__(self, traced: Traced, trained: Collection[Path], batched: Callable[[Axis], bool]):
        self._batched = batched
        self._carried: dict[int, Leaves] = {}  # by the id of a value
        self._repeated: set[Path] = set()  # leaves whose rows were looked up, perhaps repeatedly
        given = [frozenset({path}.intersection(trained)) for path in traced.leaves]
        wanted = [True] * len(traced.analysis.jaxpr.outvars)
        outputs, self._uses = self._walk(traced.analysis, given, wanted)
        self._returned = _union(outputs)
        self._results = {use.place: use.result for use in self._uses}

    def carried(self, value: Value) -> Leaves:
        """The trained leaves that a value was computed of, unless they met the examples before."""
        return self._carried.get(id(value), _NONE)

    def result(self, eqn: Any, values: list[Value]) -> Value | None:
        """What an equation in which a leaf meets the examples makes; None of any other."""
        return self._results.get(place(eqn, values))

    def check(self, met: Collection[tuple[Path, Place]]) -> None:
        """Refuses a leaf unless one place, in a closed form, shows its whole gradient.

        Args:
          met: the leaves and places for which there was a closed form.

        Raises:
          ValueError: a leaf is returned, is used more than once, or meets the examples at a place
            that is not in `met`; it names the leaf and the estimator to use instead.
        """
        for path in sorted(self._returned):
            _refuse(
                path,
                "reaches an output without the examples, axis 0 of the first input (a penalty? add "
                "it to the loss outside)",
            )
        of: dict[Path, list[Use]] = {}
        for use in self._uses:
            of.setdefault(use.path, []).append(use)
        for path, uses in of.items():
            how = ", ".join(repr(use.how) for use in uses)
            if len(uses) > 1:
                _refuse(path, f"is used more than once ({how}), so its gradients have cross terms")
            if (path, uses[0].place) not in met:
                after = _LOOKED_UP if path in self._repeated else ""
                _refuse(path, f"meets the data in {how}{after}, which has no closed form for it")

    # -- walking ----------------------------------------------------------------------------------

    def _walk(
        self, analysis: Analysis, given: list[Leaves], wanted: list[bool]
    ) -> tuple[list[Leaves], list[Use]]:
        """What the outputs carry where the inputs carry what is `given`, and the uses on the way.

        Equations that only unwanted outputs need are left out.
        """
        jaxpr, uses = analysis.jaxpr, []
        carried = dict(zip(jaxpr.invars, given, strict=True))
        needed = _needed(jaxpr, wanted)

        def of(atom: Any) -> Leaves:
            return _NONE if _literal(atom) else carried.get(atom, _NONE)

        for var, leaves in carried.items():
            self._carry(analysis.values[var], leaves)
        for index, eqn in enumerate(jaxpr.eqns):
            operands = [of(atom) for atom in eqn.invars]
            if not any(operands) or needed.isdisjoint(eqn.outvars):
                continue
            values = analysis.operands[index]
            for value, leaves in zip(values, operands, strict=True):
                self._carry(value, leaves)
            results, inside = self._equation(analysis, index, eqn, operands, needed)
            uses += inside
            entering, made = set(), None
            for var, leaves in zip(eqn.outvars, results, strict=True):
                result = analysis.values[var]
                if not leaves or not differentiable(var.aval.dtype):
                    continue
                if self._meets(values, operands, result):
                    entering, made = entering | leaves, result
                else:
                    carried[var] = leaves
                    self._carry(result, leaves)
                    if eqn.primitive.name == "gather" and not result.distinct:
                        self._repeated |= leaves
            entering.difference_update(use.path for use in inside)
            where, how = place(eqn, values), eqn.primitive.name
            uses += [Use(p, how, where, made) for o in operands for p in sorted(o & entering)]
        return [of(atom) for atom in jaxpr.outvars], uses

    def _equation(
        self, analysis: Analysis, index: int, eqn: Any, operands: list[Leaves], needed: set
    ) -> tuple[list[Leaves], list[Use]]:
        """What its results carry unless that meets the examples here; uses in inner jaxprs."""
        name, everything = eqn.primitive.name, [_union(operands)] * len(eqn.outvars)
        bodies = analysis.inner.get(index)
        if name in _CONSTANT:
            return [_NONE] * len(eqn.outvars), []
        if name in IDENTITIES:
            return operands, []
        if bodies is None:
            return everything, []
        if name == "scan":
            return self._loop(name, bodies[0], operands, *scan_counts(eqn.params))
        if name == "while":
            consts, operands = eqn.params["body_nconsts"], operands[eqn.params["cond_nconsts"] :]
            return self._loop(name, bodies[1], operands, consts, len(operands) - consts)
        if name == "cond":
            operands = operands[1:]
        wanted = [var in needed for var in eqn.outvars]
        found = [self._walk(body, operands, wanted) for body in bodies]
        uses = [use for _, inside in found for use in inside]
        if name.startswith("custom_"):  # its own derivative may use what its jaxpr does not
            return everything, uses
        return [_union(outs) for outs in zip(*(outs for outs, _ in found), strict=True)], uses

    def _loop(
        self, name: str, body: Analysis, operands: list[Leaves], consts: int, carry: int
    ) -> tuple[list[Leaves], list[Use]]:
        """As `_equation`, of a loop's body: operands for all steps, `carry` ones, those by step."""
        start, end = consts, consts + carry
        wanted = [True] * len(body.jaxpr.outvars)
        while True:
            results, uses = self._walk(body, operands, wanted)
            grown = [a | b for a, b in zip(operands[start:end], results[:carry], strict=True)]
            if grown == operands[start:end]:
                break
            operands = [*operands[:start], *grown, *operands[end:]]
        often = _union(operands[:end])
        uses = [
            use._replace(how=f"{use.how} at every step of {name}") if use.path in often else use
            for use in uses
        ]
        return [*grown, *results[carry:]], uses

    def _carry(self, value: Value, leaves: Leaves) -> None:
        if leaves:
            self._carried[id(value)] = self.carried(value) | leaves

    def _meets(self, values: list[Value], operands: list[Leaves], result: Value) -> bool:
        """Whether leaves among the operands of an equation get examples by it.

        A leaf may look as if it had them: in a batch of one, positions of shape [1, places], or a
        bias that is reshaped to [1, units]. It meets them where another operand has examples, or
        where its entries are repeated for them.
        """
        if not self._with_examples(result):
            return False
        leaves = [v for v, o in zip(values, operands, strict=True) if o]
        data = [v for v, o in zip(values, operands, strict=True) if not o]
        if any(map(self._with_examples, data)):
            return True
        own = any(map(self._with_examples, leaves))
        return not own and _size(result) > max(map(_size, leaves))

    def _with_examples(self, value: Value) -> bool:
        return any(self._batched(axis) for axis in value.axes)


def differentiable(dtype: Any) -> bool:
    """Whether an array of this type has a gradient."""
    return jax.dtypes.issubdtype(dtype, jnp.inexact)


def _needed(jaxpr: Any, wanted: list[bool]) -> set[Any]:
    """The variables of a jaxpr that its wanted outputs are computed of."""
    outputs = [atom for atom, want in zip(jaxpr.outvars, wanted, strict=True) if want]
    needed = {atom for atom in outputs if not _literal(atom)}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(atom for atom in eqn.invars if not _literal(atom))
    return needed


def _size(value: Value) -> int:
    return math.prod(map(axis_size, value.axes))


def _literal(atom: Any) -> bool:
    return isinstance(atom, jex.Literal)


def _union(sets: Iterable[Leaves]) -> Leaves:
    return _NONE.union(*sets)


def _refuse(path: Path, why: str) -> None:
    raise ValueError(
        f"leaf {path!r} {why}; use variance='vmap' (per_example), or variance='micro' "
        "(of_micro_batches) where examples are mixed"
    )
