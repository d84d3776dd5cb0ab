"""Numbers that a node has lost, averaged as zeros: what coverage is compared with."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynhp_jax.decentralised.aggregation.rule import Mix, Rule, own, without_units


@dataclasses.dataclass(frozen=True)
class ZeroFilled(Rule):
    """w[i] <- sum over j of W[i, j] m[j] w[j], where m[i] is 1; a mean that forgets the masks."""

    takes_units: ClassVar[bool] = True

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        units = without_units(weights) if units is None else units

        def one(weight, has):
            mine = own(weight, has)
            return jnp.where(mine, mix(jnp.where(mine, weight, 0)), weight)

        return jax.tree.map(one, weights, units)
