"""Which units go: scores, targets, schedules."""

from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.surgery.keeps import compose, rewind

__all__ = ["compose", "prune_to", "rewind"]
