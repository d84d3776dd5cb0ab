"""NEq velocity: how much a unit's outputs still change from epoch to epoch.

Source: Bragagnolo et al. 2022, To update or not to update? (NEq; NeurIPS 2022). With
phi^t_j the mean over examples of the cosine between the outputs of unit j at epochs t and t - 1,

    v^t = (phi^t - phi^(t-1)) - mu v^(t-1),     s_j = |v_j|.

The authors' code computes v^t = (phi^t - phi^(t-1)) - (phi^(t-1) - phi^(t-2)) + mu v^(t-1) instead,
which `rule="code"` gives. A unit at equilibrium has the score 0. The paper stops updating such
units; that they are the ones to remove is not its claim.

Outputs are those that are read, behind the nonlinearity; a unit that is zero at both epochs has the
cosine 1, at one of them 0. Reduction over a coupled group: one cosine of the outputs at all places
that read the unit.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Checked, choice, number
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.reads import captured


@dataclasses.dataclass(frozen=True)
class Velocity(Checked, Summed):
    """|v| from the variables of this epoch and of at least two earlier ones.

    Attributes:
      earlier_epochs: how many of them a run keeps for it.
      mu: the share of the last velocity.
      rule: as the paper's text or its code has it.
    """

    prefix = "criterion."
    earlier_epochs: ClassVar[int] = 2

    mu: float = number(0.5, 0.0, 1.0, "a number from 0 to 1", "the share of the last velocity")
    rule: str = choice("paper", ("paper", "code"), "which recursion")

    def sums(self, evidence: Evidence) -> list[UnitScores]:
        """Of the examples' cosines, {group: f32[units]} for every two epochs in a row.

        Raises:
          UserError: fewer than two earlier epochs.
        """
        evidence.need("velocity", "inputs")
        found, needed = len(evidence.earlier), self.earlier_epochs
        if found < needed:
            raise UserError(
                f"criterion 'velocity' has the variables of {found} earlier epochs; allowed:"
                f" {needed} or more, the latest first, in Evidence(earlier=...)"
            )
        epochs = [evidence.variables, *evidence.earlier][::-1]  # the oldest first
        outputs = [captured(evidence, variables) for variables in epochs]
        return [
            _cosines(evidence, before, after)
            for before, after in zip(outputs, outputs[1:], strict=False)
        ]

    def of_sums(self, evidence: Evidence, sums: list[UnitScores], examples: int) -> UnitScores:
        """Group name -> f32[units]."""
        phis = [{name: total / examples for name, total in each.items()} for each in sums]
        found = {}
        for name in evidence.scored:
            velocity = change = jnp.zeros(evidence.groups[name].size)
            for before, after in zip(phis, phis[1:], strict=False):
                last, change = change, after[name] - before[name]
                velocity = moved(self.rule, self.mu, velocity, change, last)
            found[name] = jnp.abs(velocity)
        return found


def moved(rule: str, mu: float, velocity: Any, change: Any, last: Any) -> Any:
    """The velocity of an epoch, from that of the epoch before.

    Args:
      rule: 'paper' or 'code', as above.
      mu: the share of the last velocity.
      velocity: v of the epoch before; 0 before the first one.
      change: of phi, to this epoch.
      last: of phi, to the epoch before.
    """
    return change - mu * velocity if rule == "paper" else change - last + mu * velocity


def cosine(product: Any, old: Any, new: Any) -> Any:
    """The cosine between two outputs, from their inner product and the squares of their norms.

    Of two outputs that are zero it is 1, of one 0.
    """
    norms = jnp.sqrt(old) * jnp.sqrt(new)
    found = product / jnp.where(norms > 0, norms, 1.0)
    return jnp.where((old == 0) & (new == 0), 1.0, found)


def _cosines(evidence: Evidence, before: list, after: list) -> UnitScores:
    """{group: f32[units]}: the sum over the examples of the cosine between two epochs' outputs."""

    def products(left: list, right: list) -> dict[str, jax.Array]:
        total: dict[str, jax.Array] = {}
        for (place, a), (_, b) in zip(left, right, strict=True):
            found = place.by_example(a * b, evidence.examples)
            total[place.name] = total.get(place.name, 0.0) + found
        return total

    inner, old, new = products(before, after), products(before, before), products(after, after)
    return {
        name: jnp.sum(cosine(product, old[name], new[name]), axis=0)
        for name, product in inner.items()
    }
