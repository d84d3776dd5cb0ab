"""The rows with the largest weights of every layer, chosen anew or for good."""

import dataclasses
from typing import Any

import jax

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.drawing import draw_top
from dynhp_jax.finetune.methods.selection import Selection, kernel_norms
from dynhp_jax.finetune.rows import Rows


@dataclasses.dataclass(frozen=True)
class Largest(Selection):
    """Rows by their norms, the largest first."""

    every: int = 0

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """The largest at this moment."""
        return draw_top(self.quotas, kernel_norms(variables, self.quotas))
