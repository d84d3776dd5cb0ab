"""L1: the sum of the absolute weights of a unit.

Source: Li et al. 2017, Pruning filters for efficient ConvNets (1608.08710), section 3.1:
s_j = sum |F_j| over the numbers of filter j.

Reduction over a coupled group: `Coupled`, by default the mean over the kernels that make the units,
each divided by its mean over them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.pruning.criteria.kernels import Coupled


@dataclasses.dataclass(frozen=True)
class L1(Coupled):
    """The sum of absolute weights."""

    def of_kernel(self, weights: jax.Array) -> jax.Array:
        """[units, numbers] -> [units]."""
        return jnp.sum(jnp.abs(weights), axis=1)
