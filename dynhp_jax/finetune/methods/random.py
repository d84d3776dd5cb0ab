"""Random rows of all layers, drawn anew in each epoch: D-Full random of the papers (2510.19675)."""

import dataclasses

from dynhp_jax.finetune.methods.drawn import Drawn


@dataclasses.dataclass(frozen=True)
class Random(Drawn):
    """Uniform draws."""
