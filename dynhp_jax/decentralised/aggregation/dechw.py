"""DecHW, *reconstructed*: numbers weigh as much as a node's data say of them (2601.19938).

Only the abstract was read. It speaks of weights of evidence from second-order information of each
node's data, and of scaling updates; that the weights themselves are scaled, by the diagonal of the
empirical Fisher matrix, is our choice. Results made with it are to be reported as reconstructed.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.aggregation.rule import Mix, wide


@dataclasses.dataclass(frozen=True)
class DecHW(Coverage):
    """w[i] <- sum over j of W[i, j] h[j] w[j], by sum over j of W[i, j] h[j]; reconstructed.

    Each number travels with its evidence h, so that twice as much is sent.

    Attributes:
      damping: what is added to the mean squared gradients, as a share of their mean in an array.
      examples: of each node, whose gradients are looked at in every round.
    """

    damping: float = 1.0
    examples: int = 32

    needs_evidence: ClassVar[bool] = True
    sent: ClassVar[int] = 2

    def __post_init__(self):
        if not self.damping > 0 or not self.examples > 0:
            raise UserError(
                f"DecHW has damping={self.damping}, examples={self.examples}; allowed: both above 0"
            )

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        if evidence is None:
            raise UserError("DecHW needs the evidence of the nodes' data; see evidence_of")
        found = jax.tree.map(lambda each: evidence_of(each, self.damping), evidence)
        return super().combine(mix, weights, units, found)


def evidence_of(fisher: jax.Array, damping: float) -> jax.Array:
    """Mean squared gradients as evidence: damped, and with the mean one in every node's array.

    Args:
      fisher: f32[nodes, ...], 0 or more.
      damping: as a share of the array's mean.

    Returns:
      f32[nodes, ...], above 0; ones where all of an array is zero.
    """
    fisher = fisher.astype(wide(fisher))
    mean = jnp.mean(fisher, axis=range(1, fisher.ndim), keepdims=True)
    return jnp.where(mean > 0, (fisher / jnp.where(mean > 0, mean, 1) + damping) / (1 + damping), 1)
