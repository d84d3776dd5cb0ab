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

from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.pruning.criteria.chunks import Summed
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores, kernel_members, nan_unless
from dynhp_jax.pruning.criteria.reads import summed
from dynhp_jax.structure.group import Member


@dataclasses.dataclass(frozen=True)
class GradientNorm(Summed):
    """The norm of the mean loss's gradient per stored number."""

    def sums(self, evidence: Evidence) -> tuple[UnitScores, UnitScores]:
        """Of gradients, {path: like the kernel}, and of stored numbers, {group: f32[units]}."""
        evidence.need("gradient_norm", "inputs", "labels")

        def loss(variables):
            return jnp.sum(
                evidence.loss(evidence.apply(variables, *evidence.inputs), evidence.labels)
            )

        value, grads = jax.value_and_grad(loss, allow_int=True)(evidence.variables)
        read = {member.path for name in evidence.scored for member in _readers(evidence, name)}
        leaves = zip(leaf_paths(grads), jax.tree.leaves(grads), strict=True)
        grads = {path: leaf for path, leaf in leaves if path in read}
        return nan_unless(jnp.isfinite(value), grads), summed(evidence, jnp.ones_like)

    def of_sums(
        self, evidence: Evidence, sums: tuple[UnitScores, UnitScores], examples: int
    ) -> UnitScores:
        """Group name -> f32[units]."""
        grads, activations = sums
        found = {}
        for name in evidence.scored:
            rows = evidence.rows(grads, _readers(evidence, name))
            square = sum(jnp.sum((r / examples) ** 2, axis=1) for r in rows)
            read = activations.get(name, 0.0)  # nothing that has a derivative may read them
            found[name] = jnp.sqrt(square) / (sum(r.shape[1] for r in rows) + read / examples)
        return found


def _readers(evidence: Evidence, name: str) -> list[Member]:
    return kernel_members(evidence.groups[name], "read")
