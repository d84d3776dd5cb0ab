"""RGN: the norm of the gradient of a unit's weights, for what training them costs.

Source: TraDy (2510.19675), the reweighted gradient norm of input channel c:
RGN_c = ||(dL/dW)_c||_2 / (C^W + C^A), with C^W the weights that read the channel and C^A the
numbers of its activation that are kept for the backward pass, for one example.

Reduction over a coupled group: one norm of the gradients of all kernels that read the unit, over
the sum of their costs.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.criteria.evidence import Evidence, Scores, kernel_members, nan_unless
from dynhp_jax.criteria.reading import summed


@dataclasses.dataclass(frozen=True)
class GradientNorm:
    """The norm of the mean loss's gradient per stored number."""

    def scores(self, evidence: Evidence) -> Scores:
        """Group name -> f32[units]."""
        evidence.need("gradient_norm", "inputs", "labels")

        def loss(variables):
            return evidence.mean_loss(evidence.apply(variables, *evidence.inputs))

        value, grads = jax.value_and_grad(loss, allow_int=True)(evidence.variables)
        activations = summed(evidence, jnp.ones_like)
        found = {}
        for name in evidence.scored:
            rows = evidence.rows(grads, kernel_members(evidence.groups[name], "read"))
            square = sum(jnp.sum(r**2, axis=1) for r in rows)
            read = activations.get(name, 0.0)  # nothing that has a derivative may read them
            cost = sum(r.shape[1] for r in rows) + read / evidence.examples
            found[name] = jnp.sqrt(square) / cost
        return nan_unless(jnp.isfinite(value), found)
