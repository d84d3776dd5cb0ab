"""What a jaxpr says about the coupling of its axes, and how to run it with some of them cut."""

from dynhp_jax.jaxprs import (  # noqa: F401  (importing registers the rules)
    bodies,
    choices,
    collectives,
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    reductions,
    resizing,
    shapes,
    writing,
    zero_rules,
)
from dynhp_jax.jaxprs.analysis import analyse
from dynhp_jax.jaxprs.labels import Labels
from dynhp_jax.jaxprs.walk import Analysis, Value, Walk, known_primitives

__all__ = ["Analysis", "Labels", "Value", "Walk", "analyse", "known_primitives"]
