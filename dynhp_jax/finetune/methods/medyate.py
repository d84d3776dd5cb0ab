"""MeDyate: rows drawn in proportion to the norms of their gradients, as far as these are known.

Source: MeDyate (2510.20979). Layers are ranked by LaRa, the norm of a layer's whole gradient by its
whole cost; kept are the fewest of whose cost the budget is at most a fifth. A row that was never
trained counts as the one with the largest norm of the first epoch; a row's norm is written anew
whenever it is trained. The paper does not say which gradient has the norm: here it is the mean one
of the epochs since the last choice, summed up in arrays of the chosen rows' size.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.drawing import remember_norms, row_norms
from dynhp_jax.finetune.methods.drawn import Drawn
from dynhp_jax.finetune.methods.selection import ROWS
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.training.extension import EpochStart

NORMS, SUMS, STEPS = "norms", "sums", "steps"


@dataclasses.dataclass(frozen=True)
class MeDyate(Drawn):
    """Draws by norms from `layers` (of `rank_layers`), or from those that `ranking` finds."""

    rule = "lara"

    def weights(self, own: Any) -> Mapping[Path, Any]:
        """The norms; none is known before the first epoch, and the first draw is uniform."""
        return own[NORMS]

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """Rows, norms of all rows of the layers, and gradients since the last choice."""
        return self._without_norms(super().start(variables, key))

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> dict[str, Any]:
        """No rows and no norms: those of smaller kernels are others."""
        return self._without_norms(super().cut(own, mirrored))

    def _without_norms(self, own: dict[str, Any]) -> dict[str, Any]:
        layouts = {path: cost.layout for path, cost in self.costs.items()}
        norms = {path: jnp.zeros(each.index_shape(each.count)) for path, each in layouts.items()}
        return {**own, NORMS: norms, **_no_sums(own[ROWS])}

    def observe(self, own: Any, gradients: Any) -> Any:
        """With the gradients of this step."""
        sums = jax.tree.map(jnp.add, own[SUMS], gradients[ROWS])
        return {**own, SUMS: sums, STEPS: own[STEPS] + 1}

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """With what the last epochs have shown; then as in `Selection`."""
        before = own[ROWS]
        if start.epoch > 1 and self.due(start.epoch) and not self.nothing_chosen(own):
            first = not any(bool(each.any()) for each in own[NORMS].values())
            means = {path: each / own[STEPS] for path, each in own[SUMS].items()}
            norms = remember_norms(own[NORMS], before, row_norms(means, before), first)
            own = {**own, NORMS: norms}
        own, opt_state = super().begin_epoch(own, opt_state, variables, start)
        same = own[ROWS] is before
        return own if same else {**own, **_no_sums(own[ROWS])}, opt_state


def _no_sums(rows: Mapping[Path, Rows]) -> dict[str, Any]:
    shapes = {path: each.layout.shape_of(each.capacity) for path, each in rows.items()}
    return {SUMS: {path: jnp.zeros(shape) for path, shape in shapes.items()}, STEPS: jnp.zeros(())}
