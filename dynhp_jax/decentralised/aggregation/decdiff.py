"""DecDiff: a step towards the neighbours' mean that is never longer than one (2312.04504)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.aggregation.rule import (
    Mix,
    Rule,
    averaged,
    own,
    wide,
    without_units,
)
from dynhp_jax.decentralised.mixing import neighbours_only

_NORMS = ("tensor", "global")


@dataclasses.dataclass(frozen=True)
class DecDiff(Rule):
    """w[i] <- w[i] - (w[i] - mean) / (|w[i] - mean|_2 + 1), the mean over the neighbours alone.

    With units that nodes have lost the mean is `Coverage`'s, the difference is zero where no
    neighbour has the number, and the norm runs over what the node has itself: our reading.

    Attributes:
      norm: 'tensor', of each array of weights, as the published code has it, or 'global', of all
        of a node's weights together.
    """

    norm: str = "tensor"

    takes_units: ClassVar[bool] = True

    def __post_init__(self):
        if self.norm not in _NORMS:
            raise UserError(f"DecDiff.norm is {self.norm!r}; allowed: {', '.join(_NORMS)}")

    def matrix(self, mixing: jax.Array) -> jax.Array:
        return neighbours_only(mixing)

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        units = without_units(weights) if units is None else units

        def apart(weight, has):
            mean, someone = averaged(mix, weight, has, None)
            return jnp.where(someone & own(weight, has), weight - mean, 0)

        differences = jax.tree.map(apart, weights, units)
        squares = jax.tree.map(_squares, differences)
        if self.norm == "global":
            total = sum(jax.tree.leaves(squares))
            squares = jax.tree.map(lambda _: total, squares)
        return jax.tree.map(_step, weights, differences, squares)


def _squares(difference: jax.Array) -> jax.Array:
    """f32[nodes]: of every node, summed."""
    return jnp.sum(difference.astype(wide(difference)) ** 2, axis=range(1, difference.ndim))


def _step(weight: jax.Array, difference: jax.Array, squares: jax.Array) -> jax.Array:
    length = (jnp.sqrt(squares) + 1).astype(weight.dtype)
    return weight - difference / length.reshape(-1, *[1] * (weight.ndim - 1))
