"""Static random rows: TraDy's draw of the first epoch for good (PaCA's choice, S-TopK random)."""

import dataclasses

from dynhp_jax.finetune.methods.trady import TraDy


@dataclasses.dataclass(frozen=True)
class Static(TraDy):
    """One uniform draw before the first epoch."""

    every: int = 0
