"""Random scores: the baseline that every criterion has to beat.

Source: the control of Mittal et al. 2018, Recovering from random pruning (1801.10447).

The numbers are dealt in the order of the units' L1 norms and not of their positions: whoever
numbers the units in another way draws the same ones. They are independent of the norms.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dynhp_jax.common import random_keys
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores
from dynhp_jax.pruning.criteria.l1 import L1


@dataclasses.dataclass(frozen=True)
class Random:
    """Uniform on [0, 1), from `evidence.key`."""

    def scores(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units]."""
        evidence.need("random", "key")
        found = {}
        for name, norms in L1().scores(evidence).items():
            key = random_keys.key_for(evidence.key, name)
            rank = jnp.argsort(jnp.argsort(norms))
            found[name] = jax.random.uniform(key, norms.shape)[rank]
        return found
