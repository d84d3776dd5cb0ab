"""L2: the Euclidean norm of a unit's weights.

Source: the group norm of structured sparsity, Wen et al. 2016 (1608.03665):
s_j = sqrt(sum F_j^2) over the numbers of filter j.

Reduction over a coupled group: `Coupled`, by default the mean over the kernels that make the units,
each divided by its mean over them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.pruning.criteria.kernels import Coupled


@dataclasses.dataclass(frozen=True)
class L2(Coupled):
    """The norm of the weights."""

    def of_kernel(self, weights: jax.Array) -> jax.Array:
        """[units, numbers] -> [units]."""
        return jnp.sqrt(jnp.sum(weights**2, axis=1))
