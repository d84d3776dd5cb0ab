"""MeDyate: rows drawn in proportion to the norms of their gradients, as far as these are known.

Source: MeDyate (2510.20979). A row that was never trained counts as the one with the largest norm
of the first epoch; a row's norm is written anew whenever it is trained. Norms are those of the
epoch's summed gradients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.drawing import draw, remember_norms, row_norms
from dynhp_jax.finetune.methods.selection import ROWS, Selection
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.training.extension import EpochStart

NORMS, SUMS = "norms", "sums"


@dataclasses.dataclass(frozen=True)
class MeDyate(Selection):
    """Draws by norms; `layers` are those of `rank_layers(rule='lara')`, () for all."""

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """A uniform draw: no norm is known."""
        return draw(key, self.quotas)

    def next(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """A draw in proportion to the norms."""
        return draw(key, self.quotas, own[NORMS])

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """Rows, norms of all rows of the layers, and of the chosen ones since the last choice."""
        return self._without_norms(super().start(variables, key))

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> dict[str, Any]:
        """No rows and no norms: those of smaller kernels are others."""
        return self._without_norms(super().cut(own, mirrored))

    def _without_norms(self, own: dict[str, Any]) -> dict[str, Any]:
        layouts = {path: quota.cost.layout for path, quota in self.quotas.items()}
        norms = {path: jnp.zeros(each.index_shape(each.count)) for path, each in layouts.items()}
        sums = {path: jnp.zeros(each.index.shape) for path, each in own[ROWS].items()}
        return {**own, NORMS: norms, SUMS: sums}

    def observe(self, own: Any, gradients: Any) -> Any:
        """With the norms of this step."""
        norms = row_norms(gradients[ROWS], own[ROWS])
        return {**own, SUMS: jax.tree.map(jnp.add, own[SUMS], norms)}

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """With what the last epochs have shown; then as in `Selection`."""
        if self.due(start.epoch) and not self.nothing_chosen(own):
            first = not any(bool(each.any()) for each in own[NORMS].values())
            norms = remember_norms(own[NORMS], own[ROWS], own[SUMS], first)
            own = {**own, NORMS: norms, SUMS: jax.tree.map(jnp.zeros_like, own[SUMS])}
        return super().begin_epoch(own, opt_state, variables, start)
