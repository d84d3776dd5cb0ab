"""Static random rows: a draw before the first epoch for good (S-TopK random; PaCA, 2503.01905)."""

import dataclasses

from dynhp_jax.finetune.methods.drawn import Drawn


@dataclasses.dataclass(frozen=True)
class Static(Drawn):
    """One uniform draw."""

    every: int = 0
