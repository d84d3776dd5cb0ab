"""The rules: by primitive, how the axes of its results come from those of its operands."""

from dynhp_jax.jaxprs.rules import (  # noqa: F401  (importing registers them)
    choices,
    collectives,
    contractions,
    control,
    elementwise,
    indexing,
    matrices,
    reductions,
    shapes,
    writing,
    zero_rules,
)
