"""What a rule of aggregation is, and the weighted mean that all of them are made of.

The weights of all nodes are one pytree with a leading axis of nodes. Nodes that have lost units
hold zeros there, and `units` says which numbers they still have: a pytree like the weights with, in
place of each array, a tuple of masks [nodes, ...] that are multiplied with it, one for each axis
that was cut. Nothing of the size of the weights is kept to say what a node has.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Array = jax.Array
Mix = Callable[[Array], Array]  # f32[nodes, ...] -> the mixing matrix times it


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of aggregation; derive from it and override `combine`.

    A frozen dataclass of plain numbers and texts, so that programs can be compiled for it. Calling
    it with a mixing matrix is all that a loop of your own needs:

    >>> from dynhp_jax.decentralised import graphs, mixing
    >>> from dynhp_jax.decentralised.aggregation.decavg import DecAvg
    >>> W = mixing.mixing_matrix(graphs.complete(2))
    >>> DecAvg()(W, {"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])})["w"].tolist()
    [[2.0, 4.0], [2.0, 4.0]]
    """

    takes_units: ClassVar[bool] = False  # whether nodes may have lost units
    needs_evidence: ClassVar[bool] = False  # whether it weighs every number of every node
    sent: ClassVar[int] = 1  # numbers that travel for each weight

    def matrix(self, mixing: Array) -> Array:
        """The matrix that the rule multiplies with, from that of the nodes that are there."""
        return mixing

    def combine(self, mix: Mix, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        """The new weights of all nodes; traced.

        Args:
          mix: multiplies arrays [nodes, ...] by `matrix`.
          weights: pytree of f32[nodes, ...].
          units: masks, see the module; None where all nodes have all units.
          evidence: pytree like the weights, above 0; None but for rules that need it.
        """
        raise NotImplementedError

    def __call__(self, mixing: Any, weights: Any, units: Any = None, evidence: Any = None) -> Any:
        """The new weights of all nodes.

        Args:
          mixing: f32[nodes, nodes], whose rows sum to one.
          weights, units, evidence: as in `combine`.
        """
        weights = jax.tree.map(jnp.asarray, weights)
        return self.combine(dense(self.matrix(jnp.asarray(mixing))), weights, units, evidence)


def dense(matrix: Array) -> Mix:
    """Multiplies by a matrix that is whole.

    Args:
      matrix: [receivers, nodes].
    """

    def mix(array: Array) -> Array:
        flat = array.reshape(len(array), -1)
        found = jnp.matmul(matrix.astype(wide(array)), flat.astype(wide(array)), precision=_EXACT)
        return found.reshape(len(matrix), *array.shape[1:]).astype(array.dtype)

    return mix


_EXACT = jax.lax.Precision.HIGHEST  # else accelerators round the weights that they sum


def wide(array: Array) -> Any:
    """The type that an array is summed in: float32 at least."""
    return jnp.promote_types(array.dtype, jnp.float32)


def averaged(mix: Mix, weight: Array, has: tuple[Array, ...], evidence: Any) -> tuple:
    """The mean over the nodes that have a number, and whether any of them has it.

    sum over j of W[i, j] h[j] m[j] w[j], by the same sum without w[j], with m the mask and h the
    evidence of a node.

    Args:
      mix: multiplies by W.
      weight: f32[nodes, ...].
      has: masks of its units.
      evidence: f32[nodes, ...], or None.

    Returns:
      (f32[nodes, ...], 0 where nobody has the number; bool[nodes or 1, ...], which broadcasts).
    """
    share = math.prod(has[1:], start=has[0]) if has else jnp.ones(
        (len(weight), *[1] * (weight.ndim - 1)), weight.dtype
    )  # fmt: skip
    share = share.astype(weight.dtype)
    if evidence is not None:
        share = share * evidence
    total = mix(share)
    someone = total > 0
    return mix(share * weight) / jnp.where(someone, total, 1), someone


def own(weight: Array, has: tuple[Array, ...]) -> Array:
    """Whether a node has a number: bool that broadcasts against its array."""
    return math.prod(has[1:], start=has[0]) > 0 if has else jnp.ones((1,) * weight.ndim, bool)


def without_units(weights: Any) -> Any:
    """`units` of nodes that have lost none."""
    return jax.tree.map(lambda weight: (), weights)
