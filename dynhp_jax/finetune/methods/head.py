"""The classifier alone: no layer below it is trained, and nothing below it is kept."""

import dataclasses

from dynhp_jax.finetune.methods.leaves import WholeLeaves


@dataclasses.dataclass(frozen=True)
class Head(WholeLeaves):
    """The head; stored are the features that it reads."""
