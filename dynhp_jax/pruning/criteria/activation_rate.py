"""The activation rate of a gate over an epoch, and the pruning rule that reads it.

Source: Valerio et al. 2020, Eq. 6 (rate) and Eq. 7 (threshold). "Active" means that the drawn gate
is above 0, not that its value is large.

`observe` runs inside the compiled epoch; `rates` and `keep_active` run on the host between epochs,
in float64, so that a unit that was active in 3 of 10 observations survives a threshold of 0.3.

`ActivationRate` is the same number as a criterion, from gates as they are now instead of those of
an epoch.
"""

import dataclasses

import jax.numpy as jnp

from dynhp_jax.common import random_keys
from dynhp_jax.common.fields import Checked, whole
from dynhp_jax.gates import hard_concrete
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores


@dataclasses.dataclass(frozen=True)
class ActivationRate(Checked):
    """How often a gate is open: its probability (Eq. 4), or the share of some draws (Eq. 6).

    Attributes:
      draws: how many draws to count, with `evidence.key`; 0 for the probability. The draws are
        those of the units' positions, so of units in another order they are others.
    """

    prefix = "criterion."
    comparable = True

    draws: int = whole(0, 0, "how many draws to count; 0: the probability")

    def scores(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units] in [0, 1], of the groups that have gates."""
        evidence.need("activation", "gates")
        names = [name for name in evidence.scored if name in evidence.gates]
        if not self.draws:
            return {name: hard_concrete.prob_open(evidence.gates[name]) for name in names}
        evidence.need("activation", "key")
        found = {}
        for name in names:
            key = random_keys.key_for(evidence.key, name)
            z = hard_concrete.sample(key, evidence.gates[name], self.draws)
            found[name] = jnp.mean(z > 0, axis=0, dtype=jnp.float32)
        return found
