"""FPGM: how far a unit's weights are from those of the others, which could stand in for it.

Source: He et al. 2019, Filter pruning via geometric median (1811.00250), section 3:
s_j = sum over j' of ||F_j - F_j'||_2. The unit closest to the geometric median has the lowest.

Reduction over a coupled group: `Coupled`, by default the mean over the kernels that make the units,
each divided by its mean over them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.pruning.criteria.kernels import Coupled


@dataclasses.dataclass(frozen=True)
class GeometricMedian(Coupled):
    """The sum of distances to the other units."""

    def of_kernel(self, weights: jax.Array) -> jax.Array:
        """[units, numbers] -> [units]."""
        # One unit after the other: all differences at once would be units times the kernel, and
        # the Gram form loses the distance of near duplicates to rounding.
        return jax.lax.map(
            lambda one: jnp.sum(jnp.sqrt(jnp.sum((weights - one) ** 2, axis=1))), weights
        )
