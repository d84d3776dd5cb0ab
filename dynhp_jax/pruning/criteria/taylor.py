"""First-order Taylor: how much the loss changes, to first order, when a unit is taken away.

Source: Molchanov et al. 2017 (1611.06440), section 2.2, with the gates of Molchanov et al. 2019
(1906.10771): of a gate z_j = 1 on unit j, dL/dz_j = sum over places of a dL/da, and
L(z_j = 0) - L = -dL/dz_j + ...: s_j = |dL/dz_j|.

Reduction over a coupled group: the gate multiplies the unit wherever it is read, so its derivative
is already the sum over all readers; scores are changes of the loss and need no scale.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.common.fields import Checked, choice
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores, nan_unless


@dataclasses.dataclass(frozen=True)
class Taylor(Checked, Summed):
    """|dL/dz|.

    Attributes:
      absolute: 'batch' takes the absolute value of the mean loss's derivative, the estimate of how
        much that loss changes; 'example' takes those of every example's and then their mean, as the
        2017 paper does: changes of opposite sign do not cancel.
    """

    prefix = "criterion."
    comparable = True

    absolute: str = choice("batch", ("batch", "example"), "where the absolute value is taken")

    def sums(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units]: of the examples' derivatives, or of their absolute values."""
        evidence.need("taylor", "inputs", "labels")
        per_example = self.absolute == "example"
        grads = gate_gradients(evidence, per_example)
        if not per_example:
            return grads
        return {name: jnp.sum(jnp.abs(grad), axis=0) for name, grad in grads.items()}

    def of_sums(self, evidence: Evidence, sums: UnitScores, examples: int) -> UnitScores:
        """Group name -> f32[units]."""
        return {name: jnp.abs(total) / examples for name, total in sums.items()}


def gate_gradients(evidence: Evidence, per_example: bool) -> UnitScores:
    """Derivatives with respect to gates of one on every unit.

    Args:
      evidence: with inputs and labels.
      per_example: of every example's loss, f32[batch, units]; else of their sum, f32[units].

    Returns:
      {group: derivatives}, nan if the loss of an example is not finite.
    """
    gated_apply = gated(evidence.apply, evidence.groups)
    lead = (evidence.examples,) if per_example else ()
    ones = {name: jnp.ones((*lead, evidence.groups[name].size)) for name in evidence.scored}

    def loss(gates: UnitScores) -> tuple[jax.Array, jax.Array]:
        outputs = gated_apply(evidence.variables, gates, *evidence.inputs)
        losses = evidence.loss(outputs, evidence.labels)
        return jnp.sum(losses), jnp.all(jnp.isfinite(losses))

    grads, finite = jax.grad(loss, has_aux=True)(ones)
    return nan_unless(finite, grads)
