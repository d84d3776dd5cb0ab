"""How the scores of a coupled group's members become one: a scale for each, then a reduction.

A residual stream is made by several convolutions and read by several more. Each of these kernels
has an opinion on every unit. Their magnitudes differ with fan-in and initialisation, so each is
first divided by its mean (or maximum) over the units; then the mean (sum, maximum) over the kernels
is the group's score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dynhp_jax.common.fields import Checked, choice
from dynhp_jax.pruning.criteria.evidence import Evidence, UnitScores

SCALES: dict[str, Callable] = {
    "mean": lambda score: jnp.mean(jnp.abs(score)),
    "max": lambda score: jnp.max(jnp.abs(score)),
    "none": lambda score: jnp.ones(()),
}
REDUCTIONS: dict[str, Callable] = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max}


def scaled(score: jax.Array, scale: str) -> jax.Array:
    """A score [units] divided by its mean or maximum over the units; all zeros stay zeros."""
    by = SCALES[scale](score)
    return score / jnp.where(by > 0, by, 1.0)


def combine(scores: Sequence[jax.Array], scale: str, reduction: str) -> jax.Array:
    """One score f32[units] out of those of several members.

    >>> combine([jnp.array([1.0, 3.0]), jnp.array([40.0, 0.0])], "mean", "mean").tolist()
    [1.25, 0.75]
    """
    stacked = jnp.stack([scaled(score, scale) for score in scores])
    return REDUCTIONS[reduction](stacked, axis=0).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Coupled(Checked):
    """Options of criteria that score a group kernel by kernel.

    Attributes:
      members: the kernels that are asked; nothing makes the inputs, so those that read them are.
      scale: what each kernel's scores are divided by.
      reduction: over the kernels.
    """

    prefix = "criterion."

    members: str = choice("made", ("made", "read", "both"), "the kernels that are asked")
    scale: str = choice("mean", tuple(SCALES), "what each kernel's scores are divided by")
    reduction: str = choice("mean", tuple(REDUCTIONS), "over the kernels")

    def of_kernel(self, weights: jax.Array) -> jax.Array:
        """[units, numbers] -> [units]."""
        raise NotImplementedError

    def scores(self, evidence: Evidence) -> UnitScores:
        """Group name -> f32[units]."""
        return {
            name: combine(
                [self.of_kernel(weights) for weights in evidence.kernels(name, self.members)],
                self.scale,
                self.reduction,
            )
            for name in evidence.scored
        }
