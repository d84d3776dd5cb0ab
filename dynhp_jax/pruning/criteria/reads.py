"""What units are when they are read: values, and what flows back to them.

The places are those where gates multiply: the operand of every matrix product or convolution that
sums over the group, behind the nonlinearity. Other sums count only where no kernel reads the units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.trace import Traced, trace
from dynhp_jax.jaxprs.values import Analysis, Value
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.unit_reads import UnitReads

_LOOPS = ("scan", "while", "cond", "remat", "remat2", "checkpoint")


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where on an operand the units of a group are.

    Attributes:
      name: the group.
      axis: of the operand.
      units: int[axis size], the unit at each position, or `size` where there is none.
      size: how many units the group has.
      batch: the operand's axis that holds the examples, None if it has none.
      examples: int[batch axis size], the example at each position.
    """

    name: str
    axis: int
    units: np.ndarray
    size: int
    batch: int | None
    examples: np.ndarray | None

    def by_unit(self, array: Any) -> jax.Array:
        """[size]: the sum of what an array like the operand holds of every unit."""
        rest = tuple(d for d in range(array.ndim) if d != self.axis)
        summed = jnp.sum(array, axis=rest, dtype=_sum_dtype(array))
        return jnp.zeros(self.size, summed.dtype).at[self.units].add(summed, mode="drop")

    def by_example(self, array: Any, examples: int) -> jax.Array:
        """[examples, size]: the same for every example by itself."""
        if self.batch is None or self.batch == self.axis:
            raise ValueError(
                f"group {self.name!r} is read where no batch axis is; leave it out of names"
            )
        rest = tuple(d for d in range(array.ndim) if d not in (self.axis, self.batch))
        summed = jnp.sum(array, axis=rest, dtype=_sum_dtype(array))
        if self.batch > self.axis:
            summed = summed.T
        zeros = jnp.zeros((examples, self.size), summed.dtype)
        return zeros.at[self.examples[:, None], self.units].add(summed, mode="drop")


def _sum_dtype(array: Any) -> Any:
    return jnp.promote_types(array.dtype, jnp.float32)


class Reads(UnitReads):
    """Calls `read(place, operand) -> operand` where gates would multiply."""

    values_only = True

    def __init__(self, traced: Traced, groups: Groups, names: Sequence[str], read: Callable):
        super().__init__(traced, groups, names)
        self.read = read

    def in_sums(self, name: str) -> bool:
        # A norm sees squares, which say nothing new of a unit whose values are read by a kernel.
        read = any(member.role == "in" for member in self.groups[name].members)
        return super().in_sums(name) and not read

    def at_read(self, array: Any, value: Value, d: int, on_axis: dict[str, np.ndarray]) -> Any:
        at = self.places.batch_axis(value)
        examples = None if at is None else self.places.examples_on(value.axes[at])
        for name, units in on_axis.items():
            place = Place(name, d, units, self.groups[name].size, at, examples)
            array = self.read(place, array)
        return array


def noted(
    apply: Callable,
    groups: Groups,
    names: Sequence[str],
    statistic: Callable,
    make_run: Callable[..., Run] = Run,
    reached: set[str] | None = None,
) -> Callable:
    """Makes the backward pass add up a statistic of the units where they are read.

    A probe for each group changes nothing in the forward pass. The derivative with respect to it is
    not a derivative but the sum over places and examples of `statistic(operand, cotangent)`. That
    works inside loops and checkpoints, too, from which values cannot be carried out.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      groups: its groups.
      names: those to look at.
      statistic: (operand, cotangent) -> array of the operand's shape.
      make_run: (walk, hook=...) -> the evaluation, `Run` or one with other backward rules.
      reached: the names of the groups that the backward pass meets are added, as it is traced.

    Returns:
      `f(variables, probes, *inputs) -> outputs`, with probes {name: f32[units]} of zeros.
    """

    def with_probes(variables: Any, probes: Mapping[str, Any], *inputs: Any) -> Any:
        traced = trace(apply, variables, inputs)

        def read(place: Place, array: Any) -> Any:
            @jax.custom_vjp
            def note(array: Any, probe: Any) -> Any:
                return array

            def back(array: Any, cotangent: Any) -> tuple:
                if reached is not None:
                    reached.add(place.name)
                found = place.by_unit(statistic(array, cotangent))
                return cotangent, found.astype(probes[place.name].dtype)

            note.defvjp(lambda array, probe: (array, array), back)
            return note(array, probes[place.name])

        hook = Reads(traced, groups, names, read)
        run = make_run(traced.walk, hook=hook)
        out = run(traced.analysis, jax.tree.leaves((variables, inputs)))
        hook.check_met()
        return jax.tree.unflatten(traced.out_tree, out)

    return with_probes


def summed(evidence: Evidence, statistic: Callable) -> UnitScores:
    """{group: f32[units]}: `statistic(operand)` summed over the places that read a unit.

    A group is missing where the backward pass meets none of them: nothing reads its units, or
    behind them is a `stop_gradient` or a rounding (sign, argmax).
    """
    reached: set[str] = set()
    function = noted(
        evidence.apply,
        evidence.groups,
        evidence.scored,
        lambda array, _: statistic(array),
        reached=reached,
    )
    probes = {name: jnp.zeros(evidence.groups[name].size) for name in evidence.scored}

    def total(probes: UnitScores) -> jax.Array:
        outputs = function(evidence.variables, probes, *evidence.inputs)
        return jnp.zeros(()) + sum(
            jnp.sum(leaf).astype(jnp.float32)
            for leaf in jax.tree.leaves(outputs)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        )

    found = jax.grad(total)(probes)
    return {name: found[name] for name in evidence.scored if name in reached}


class _Outside(Run):
    """A run that knows whether it is inside a loop, from which no array can be taken."""

    inside = ""

    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list) -> Sequence[Any]:
        outside = self.inside
        if index in analysis.inner and eqn.primitive.name in _LOOPS:
            self.inside = eqn.primitive.name
        try:
            return super()._equation(analysis, index, eqn, args)
        finally:
            self.inside = outside


def captured(evidence: Evidence, variables: Any) -> list[tuple[Place, jax.Array]]:
    """The operands themselves, in the order in which they are read.

    Raises:
      UserError: nothing reads the units of a group.
      ValueError: units are read inside a loop, a branch or a checkpoint.
    """
    traced = trace(evidence.apply, variables, evidence.inputs)
    found: list[tuple[Place, jax.Array]] = []

    def read(place: Place, array: Any) -> Any:
        if run.inside:
            raise ValueError(
                f"group {place.name!r} is read inside '{run.inside}', from which activations "
                "cannot be taken; leave it out of names, or unroll the loop"
            )
        found.append((place, array))
        return array

    hook = Reads(traced, evidence.groups, evidence.scored, read)
    run = _Outside(traced.walk, hook=hook)
    run(traced.analysis, jax.tree.leaves((variables, evidence.inputs)))
    hook.check_met()
    for name in evidence.scored:
        if all(place.name != name for place, _ in found):
            raise UserError(
                f"nothing reads the units of group {name!r}, so they have no activation; leave it"
                " out of names"
            )
    return found
