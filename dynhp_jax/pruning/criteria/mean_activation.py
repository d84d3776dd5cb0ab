"""Mean activation: how much, or how often, a unit is on.

Sources: Hu et al. 2016, Network trimming (1607.03250), Eq. 1: APoZ, the average percentage of
zeros, here 1 - APoZ, so that the lowest goes first; Molchanov et al. 2017 (1611.06440), section
2.2: the mean of the activation, here of its absolute value, for nonlinearities that have a sign.

Activations are those that are read, behind the nonlinearity. Reduction over a coupled group: the
mean over all examples, positions and readers, not scaled.
"""

import dataclasses

import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import Checked, choice
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.reads import summed

STATISTICS = {
    "absolute": jnp.abs,
    "nonzero": lambda activation: (activation != 0).astype(jnp.float32),
}


@dataclasses.dataclass(frozen=True)
class MeanActivation(Checked, Summed):
    """The mean of |a|, or the share of a that is not zero.

    Attributes:
      statistic: 'absolute' or 'nonzero' (1 - APoZ).
    """

    prefix = "criterion."

    statistic: str = choice("absolute", tuple(STATISTICS), "of an activation")

    def sums(self, evidence: Evidence) -> tuple[UnitScores, UnitScores]:
        """Of the statistic, and how many activations there are: {group: f32[units]} each.

        Raises:
          UserError: a group whose activations the backward pass does not meet.
        """
        evidence.need("mean_activation", "inputs")
        totals = summed(evidence, STATISTICS[self.statistic])
        for name in evidence.scored:
            if name not in totals:
                raise UserError(
                    f"criterion 'mean_activation' sees no activation of group {name!r}: nothing "
                    "that has a derivative reads its units (a stop_gradient or a rounding behind "
                    "them hides who does); take that out of apply, or leave the group out of names"
                )
        return totals, summed(evidence, jnp.ones_like)

    def of_sums(
        self, evidence: Evidence, sums: tuple[UnitScores, UnitScores], examples: int
    ) -> UnitScores:
        """Group name -> f32[units]."""
        totals, counts = sums
        return {name: total / counts[name] for name, total in totals.items()}
