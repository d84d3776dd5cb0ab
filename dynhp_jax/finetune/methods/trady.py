"""TraDy: rows drawn uniformly from the kept layers, anew in each epoch.

Source: TraDy (2510.19675), with quotas for layers in place of a pooled draw: the same chances in
expectation, and one program for all draws.
"""

import dataclasses

from dynhp_jax.finetune.methods.random import Random


@dataclasses.dataclass(frozen=True)
class TraDy(Random):
    """Uniform draws; `layers` are those of `rank_layers(rule='rgn')`, () for all."""
