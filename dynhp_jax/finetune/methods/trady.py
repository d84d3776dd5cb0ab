"""TraDy: rows drawn uniformly from the kept layers, anew in each epoch.

Source: TraDy (2510.19675), with quotas for layers in place of a pooled draw: the same chances in
expectation, and one program for all draws.
"""

import dataclasses
from typing import Any

import jax

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.drawing import draw
from dynhp_jax.finetune.methods.selection import Selection
from dynhp_jax.finetune.rows import Rows


@dataclasses.dataclass(frozen=True)
class TraDy(Selection):
    """Uniform draws; `layers` are those of `rank_layers(rule='rgn')`, () for all."""

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """A draw."""
        return draw(key, self.quotas)
