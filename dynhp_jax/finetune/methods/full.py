"""Full fine-tuning: what all methods are held against."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.methods.leaves import WholeLeaves
from dynhp_jax.finetune.segments import in_segments


@dataclasses.dataclass(frozen=True)
class Full(WholeLeaves):
    """All parameters; with `kernels_only` the kernels and the head, as the papers count.

    Stored are the inputs of all layers. By default activations keep what JAX keeps of them. With
    `remat` stored is what so many segments of the model read, and the rest is computed anew; 0 for
    none.
    """

    bits: bool = False
    kernels_only: bool = False
    remat: int = 0

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.remat, bool) or not isinstance(self.remat, int) or self.remat < 0:
            raise UserError(f"remat is {shown(self.remat)}; allowed: segments, 0 for none")

    def transformed(self, apply: Callable) -> Callable:
        """The model, perhaps in segments."""
        return in_segments(apply, self.remat) if self.remat else apply

    def beside(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> Iterable[Path]:
        """Everything."""
        return costs if self.kernels_only else leaves
