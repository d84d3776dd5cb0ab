"""Rows that are drawn by chance: from which layers, with which weights, into how much room.

`capacity` says how the budget is shared among layers. With 'quota' each layer has so many rows that
never change, and a new draw compiles nothing. The papers draw from the rows of all layers together:
'pooled' does, with room for each draw's counts, rounded up to multiples of 4, and one program for
each such room, kept; 'pooled-fixed' has room for all of 200 draws (2.2 times the budget of TraDy's
smallest), and so one program as long as that is enough.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import (
    Quota,
    capacities,
    draw,
    draw_pooled,
    largest_capacities,
    quotas,
)
from dynhp_jax.finetune.methods.measured import measured_norms
from dynhp_jax.finetune.methods.selection import Selection, rooms_for
from dynhp_jax.finetune.ranking import rank_layers
from dynhp_jax.finetune.rows import Rows, pad_rows
from dynhp_jax.training.extension import Decided, EpochStart

CAPACITIES = ("quota", "pooled", "pooled-fixed")
KEPT = "kept"  # of what is kept: which layers rows are drawn from
DRAWS = 200  # that 'pooled-fixed' has room for


@dataclasses.dataclass(frozen=True)
class Drawn(Selection):
    """Rows by chance; derive from it to say with which weights.

    Attributes:
      capacity: 'quota', 'pooled' or 'pooled-fixed'.
      ranking: for how many epochs layers are ranked before the first one, on a copy that is trained
        whole (`measured_norms`); rows are drawn from the best ones of `layers` alone. 0 for none.
      share: of the measures' sum that the kept layers hold ('rgn'), or the largest share of their
        cost that the budget may be ('lara'); 0 for the paper's, .97 or .2.
    """

    capacity: str = "quota"
    ranking: int = 0
    share: float = 0.0
    rule: ClassVar[str] = "rgn"

    def __post_init__(self):
        super().__post_init__()
        if self.capacity not in CAPACITIES:
            allowed = ", ".join(map(repr, CAPACITIES))
            raise UserError(f"capacity is {shown(self.capacity)}; allowed: {allowed}")
        if isinstance(self.ranking, bool) or not isinstance(self.ranking, int) or self.ranking < 0:
            raise UserError(f"ranking is {shown(self.ranking)}; allowed: whole epochs, 0 or more")
        if not 0 <= self.share <= 1:
            raise UserError(f"share is {shown(self.share)}; allowed: from 0 (the paper's) to 1")

    # -- what a method says ------------------------------------------------------------------------

    def weights(self, own: Any) -> Mapping[Path, Any] | None:
        """path -> f[channels]: rows are drawn in proportion to these; None for all alike."""
        return None

    # -- rows --------------------------------------------------------------------------------------

    @property
    def varies(self) -> bool:
        """Whether how many rows a layer has is decided in the run."""
        return self.capacity != "quota" or self.ranking > 0

    def shares(self, costs: Mapping[Path, Cost]) -> dict[Path, Quota]:
        """Those of the budget, or with room for all draws."""
        if self.capacity != "pooled-fixed":
            return super().shares(costs)
        room = _room(tuple(costs.items()), self.budget)
        return {path: Quota(count, costs[path]) for path, count in room.items()}

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """The rows of the first epoch, and which layers are kept."""
        return {**super().start(variables, key), **self._kept(bool(not self.ranking))}

    def _kept(self, kept: bool) -> dict[str, Any]:
        return {KEPT: jnp.full(len(self.costs), kept)} if self.varies else {}

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """A uniform draw."""
        return draw(key, self.quotas)

    def next(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """A draw with the weights of this moment."""
        weights = self.weights(own)
        if not self.varies:
            return draw(key, self.quotas, weights)
        kept = np.asarray(own[KEPT])
        layers = [path for path, is_kept in zip(self.costs, kept, strict=True) if is_kept]
        if self.capacity == "quota":
            return draw(key, quotas(self.costs, layers, self.budget), weights)
        chosen = draw_pooled(key, self.costs, layers, self.budget, weights)
        room = capacities(chosen, self.costs)
        if self.capacity == "pooled-fixed":
            fixed = {path: quota.rows for path, quota in self.quotas.items()}
            short = [path for path, rows in chosen.items() if len(rows) > fixed.get(path, 0)]
            room = fixed | {path: room[path] for path in short}
        every = {path: chosen.get(path, np.zeros(0, np.int64)) for path in room}
        return pad_rows(every, self.costs, room)

    def anew(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """As in any other epoch."""
        return self.next(key, own, variables, epoch)

    def due(self, epoch: int) -> bool:
        """As in `Selection`; what is decided in the run is decided before the first epoch, too."""
        return super().due(epoch) or (self.varies and epoch == 1)

    # -- the parts of a step -----------------------------------------------------------------------

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """With the layers that are kept; then as in `Selection`."""
        if self.ranking and not np.any(own[KEPT]):
            norms = measured_norms(variables, start, self.costs, self.ranking)
            layers = rank_layers(norms, self.costs, self.rule, self.budget, self.share or None)
            own = {**own, KEPT: jnp.asarray([path in layers for path in self.costs])}
        return super().begin_epoch(own, opt_state, variables, start)

    def foreseen(self, own: Any, key: jax.Array, epoch: int) -> Decided | None:
        """The counts of the next draw, where they depend on nothing that training finds."""
        if not self.varies or self.compress or self.weights(own) is not None:
            return None
        return rooms_for(self.next(key, own, None, epoch)) if self.due(epoch) else None

    def cut(self, own: Any, mirrored: Any) -> dict[str, Any]:
        """The layers stay; no rows, of the smaller kernels."""
        kept = {KEPT: own[KEPT]} if self.varies else {}
        return {**super().cut(own, mirrored), **kept}

    def record(self, own: Any) -> dict[str, float]:
        """With the number of layers that rows are drawn from."""
        layers = {"layers": float(np.sum(own[KEPT]))} if self.varies else {}
        return {**super().record(own), **layers}


@functools.lru_cache(maxsize=8)
def _room(costs: tuple[tuple[Path, Cost], ...], budget: float) -> dict[Path, int]:
    """The largest count of each layer in `DRAWS` draws."""
    by_path = dict(costs)
    with jax.ensure_compile_time_eval():  # perhaps within a trace
        keys = jax.random.split(jax.random.key(0), DRAWS)
        return largest_capacities(draw_pooled(key, by_path, by_path, budget) for key in keys)
