"""The mean over those who still have a number: for nodes with different units (our own)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynhp_jax.decentralised.aggregation.rule import Mix, Rule, averaged, own, without_units


@dataclasses.dataclass(frozen=True)
class Coverage(Rule):
    """w[i] <- sum over j of W[i, j] m[j] w[j], by sum over j of W[i, j] m[j], where m[i] is 1.

    A number that only its node has stays as it is. Where all nodes have all units it is DecAvg.
    """

    takes_units: ClassVar[bool] = True

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        units = without_units(weights) if units is None else units

        def one(weight, has, evident=None):
            mean, someone = averaged(mix, weight, has, evident)
            return jnp.where(someone & own(weight, has), mean, weight)

        return jax.tree.map(one, weights, units, *([] if evidence is None else [evidence]))
