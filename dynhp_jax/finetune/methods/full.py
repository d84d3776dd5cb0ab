"""Full fine-tuning: what all methods are held against."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.methods.leaves import WholeLeaves


@dataclasses.dataclass(frozen=True)
class Full(WholeLeaves):
    """All parameters; with `kernels_only` the kernels and the head, as the papers count.

    Stored are the inputs of all layers. By default activations keep what JAX keeps of them.
    """

    bits: bool = False
    kernels_only: bool = False

    def beside(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> Iterable[Path]:
        """Everything."""
        return costs if self.kernels_only else leaves
