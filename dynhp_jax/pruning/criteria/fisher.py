"""Diagonal Fisher information of the units' gates.

Source: Theis et al. 2018, Faster gaze prediction with dense networks and Fisher pruning
(1801.05787): of N examples, with g_nj = dL_n/dz_j of a gate z_j = 1 on unit j,
s_j = 1 / (2N) sum_n g_nj^2, the second-order estimate of the change of the loss.

Reduction over a coupled group: the gate multiplies the unit wherever it is read, so g_nj is the sum
over all readers; scores are changes of the loss and need no scale.
"""

import dataclasses

import jax.numpy as jnp

from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.taylor import gate_gradients


@dataclasses.dataclass(frozen=True)
class Fisher(Summed):
    """Half the mean square of every example's derivative."""

    comparable = True

    def sums(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units], of squares."""
        evidence.need("fisher", "inputs", "labels")
        grads = gate_gradients(evidence, per_example=True)
        return {name: jnp.sum(grad**2, axis=0) for name, grad in grads.items()}

    def of_sums(self, evidence: Evidence, sums: UnitScores, examples: int) -> UnitScores:
        """Group name -> f32[units]."""
        return {name: total / examples / 2 for name, total in sums.items()}
