"""DecAvg: the mean over a node and its neighbours (2312.04504)."""

import dataclasses
from typing import Any

import jax

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.aggregation.rule import Mix, Rule


@dataclasses.dataclass(frozen=True)
class DecAvg(Rule):
    """w[i] <- sum over j of W[i, j] w[j]; for nodes that have all units."""

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        if units is not None:
            raise UserError(
                "DecAvg averages whole networks, and here nodes have lost units; use Coverage(),"
                " or ZeroFilled() to count them as zeros"
            )
        return jax.tree.map(mix, weights)
