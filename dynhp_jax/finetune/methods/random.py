"""Random rows of all layers, drawn anew in each epoch: D-Full random of the papers (2510.19675)."""

import dataclasses
from typing import Any

import jax

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.drawing import draw
from dynhp_jax.finetune.methods.selection import Selection
from dynhp_jax.finetune.rows import Rows


@dataclasses.dataclass(frozen=True)
class Random(Selection):
    """Uniform draws, with a quota for each layer."""

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """A draw."""
        return draw(key, self.quotas)
