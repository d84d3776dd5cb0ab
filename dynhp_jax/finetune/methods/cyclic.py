"""Block-cyclic: the rows of every layer one block after the other, all of them in turn.

The baseline of block coordinate descent: BAdam (2404.02827) and LISA (2403.17919) take whole blocks
of layers; here each layer's rows are in blocks, so that every epoch has the same bytes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.methods.selection import ROWS, Selection
from dynhp_jax.finetune.rows import Rows


@dataclasses.dataclass(frozen=True)
class Cyclic(Selection):
    """Rows in their order, going on where the last choice ended."""

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """The first block of every layer."""
        return {path: self._block(path, 0) for path in self.quotas}

    def next(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """The next block of every layer."""
        turn = (epoch - 1) // self.every
        return {path: self._block(path, turn) for path in own[ROWS]}

    def _block(self, path: Path, turn: int) -> Rows:
        quota = self.quotas[path]
        layout = quota.cost.layout
        index = (turn * quota.rows + jnp.arange(quota.rows, dtype=jnp.int32)) % layout.count
        return Rows(jnp.broadcast_to(jnp.sort(index), layout.index_shape(quota.rows)), layout)
