"""Rows of kernels that are trained, chosen anew between epochs: what all methods have in common.

Of the chosen rows alone there is a gradient, a state of the optimizer and, of what their layers
read, a copy for the backward pass (`finetune.selected`). The head is trained whole and outside of
the budget, as in the papers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.chunked import chunked_prefix
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import Quota, quotas, row_norms
from dynhp_jax.finetune.kernel_products import unknown_kernel
from dynhp_jax.finetune.methods import in_bytes
from dynhp_jax.finetune.methods.leaves import Leaves
from dynhp_jax.finetune.optimizer_rows import move
from dynhp_jax.finetune.rows import Rows, apply_rows, every_row, take_rows, zero_probes
from dynhp_jax.finetune.selected import selected
from dynhp_jax.training.extension import Decided, EpochStart, Extension

_ROOM = "rows "  # before a path, in what is decided
ROWS = "rows"  # beside WHOLE, the other part of what is trained


@dataclasses.dataclass(frozen=True)
class Selection(Leaves):
    """Rows inside a budget, and a head; derive from it to say which rows.

    Attributes:
      budget: numbers of one example: weights and stored activations of the rows (`Cost.row`); or,
        as a text such as '4.5MiB', bytes that the compiled training step may take.
      layers: paths of the kernels that rows are chosen from, such as those of `rank_layers`; () for
        all but the head's.
      every: epochs between two choices; 0 for one choice for good.
      chunk: what lies below the layers runs so many examples at a time; 0 for all at once.
      quotas: how many rows of each kernel; of the model that the method is bound to.
      costs: of all kernels that rows may be chosen from; likewise.
    """

    budget: float | str = 0.0
    layers: tuple[Path, ...] = ()
    every: int = 1
    chunk: int = 0
    quotas: Mapping[Path, Quota] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    costs: Mapping[Path, Cost] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.budget, str):
            in_bytes.parsed(self.budget)
        elif isinstance(self.budget, bool) or not isinstance(self.budget, (int, float)):
            raise UserError(f"budget is {shown(self.budget)}; allowed: numbers, or text of bytes")
        elif not 0 <= self.budget < math.inf:
            raise UserError(f"budget is {shown(self.budget)}; allowed: numbers, 0 or more")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 0:
            raise UserError(f"every is {shown(self.every)}; allowed: whole epochs, 0 or more")
        if isinstance(self.chunk, bool) or not isinstance(self.chunk, int) or self.chunk < 0:
            raise UserError(f"chunk is {shown(self.chunk)}; allowed: whole examples, 0 for all")
        if isinstance(self.layers, str) or not all(isinstance(p, str) for p in self.layers):
            raise UserError(f"layers is {shown(self.layers)}; allowed: a tuple of paths of kernels")

    @property
    def varies(self) -> bool:
        """Whether how many rows a kernel has is decided in the run."""
        return False

    # -- what a method says ------------------------------------------------------------------------

    def shares(self, costs: Mapping[Path, Cost]) -> dict[Path, Quota]:
        """How many rows of each kernel are trained.

        Args:
          costs: of the kernels that rows are chosen from.
        """
        return quotas(costs, costs, self.budget)

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """The rows of the first epoch; traced."""
        raise NotImplementedError

    def next(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """The rows of a later epoch, from 2 on."""
        return self.first(key, variables)

    def anew(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """The rows after units were pruned."""
        return self.first(key, variables)

    # -- the parts of a step -----------------------------------------------------------------------

    def within(
        self, apply: Callable, shapes: Any, inputs: Any, measure: Callable[[Extension], int]
    ) -> Selection:
        """With as many numbers as its bytes allow.

        Raises:
          UserError: not even one row fits.
        """
        if isinstance(self.budget, str):
            if self.varies:
                raise UserError(
                    f"budget is {self.budget!r} and how many rows a kernel has is decided in the"
                    " run; give numbers, or capacity='quota' and ranking=0"
                )
            return in_bytes.in_numbers(self, apply, shapes, inputs, measure)
        return self

    def found(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """With the quotas.

        Raises:
          UserError: there is no such kernel, or the budget is below the cheapest row.
        """
        found = super().found(costs, leaves)
        unknown = [path for path in self.layers if path not in costs]
        if unknown:
            raise unknown_kernel(unknown[0], costs, f"there are: {', '.join(costs)}")
        names = [path for path in self.layers or costs if path not in found["whole"]]
        chosen = {path: costs[path] for path in names}
        return found | {"quotas": self.shares(chosen), "costs": chosen}

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """The rows of the first epoch."""
        kept = super().start(variables, key)
        return {ROWS: self.first(key, variables), **(kept or {})}

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """Other rows, and the optimizer's state of those that stay."""
        if self.nothing_chosen(own):
            rows = self.anew(start.key, own, variables, start.epoch)
        elif self.due(start.epoch):
            rows = self.next(start.key, own, variables, start.epoch)
        else:
            return self.recompressed(own, variables, start, own[ROWS]), opt_state
        before = own[ROWS]
        opt_state = self._moved(opt_state, before, rows, variables, start)
        counts = [{path: each.capacity for path, each in of.items()} for of in (before, rows)]
        resized, own = counts[0] != counts[1], {**own, ROWS: rows}
        return self.recompressed(own, variables, start, rows, True, resized), opt_state

    def due(self, epoch: int) -> bool:
        """Whether other rows are chosen before this epoch."""
        return epoch > 1 and self.every > 0 and (epoch - 1) % self.every == 0

    def nothing_chosen(self, own: Any) -> bool:
        """Whether no row is, as after `cut`."""
        return all(bool((each.index == each.layout.count).all()) for each in own[ROWS].values())

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> dict[str, Any]:
        """No rows, of the smaller kernels; before the next epoch some are chosen."""
        return {ROWS: {path: _no_rows(quota) for path, quota in self.quotas.items()}}

    def _moved(
        self,
        opt_state: Any,
        old: Mapping[Path, Rows],
        new: Mapping[Path, Rows],
        variables: Any,
        start: EpochStart,
    ) -> Any:
        whole = super().trained(variables, ())

        def init(probes: Mapping[Path, Any]) -> Any:
            return start.tx.init({"params": {ROWS: dict(probes), **whole}, "gates": start.gates})

        tx = optax.GradientTransformation(init, start.tx.update)
        return move(tx, opt_state, zero_probes(variables, {**new, **old}), old, new)

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """The chosen rows, which are probes for `forward` and values for a decay, and the head."""
        return {ROWS: take_rows(variables, own[ROWS]), **super().trained(variables, own)}

    def transformed(self, apply: Callable) -> Callable:
        """The model with chosen rows, and in parts below the kernels that they are chosen from."""
        if self.chunk:
            apply = chunked_prefix(apply, tuple(self.costs), self.chunk)
        return selected(apply, self.quotas) if self.quotas else apply

    def arguments(self, trained: Any, own: Any) -> tuple[Any, ...]:
        """Rows and their probes."""
        return (own[ROWS], trained[ROWS]) if self.quotas else ()

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """Chosen rows and the head, changed in place."""
        variables, own = super().updated(variables, own, trained, change)
        return apply_rows(variables, own[ROWS], change[ROWS]), own

    def decided(self, own: Any) -> Decided:
        """For how many rows there is room."""
        rooms = rooms_for(own[ROWS]) if self.varies else ()
        return rooms + super().decided(own)

    def sized(self, decided: Decided) -> Selection:
        """With room for so many."""
        found = super().sized(decided)
        rooms = {n.removeprefix(_ROOM): each for n, each in decided if n.startswith(_ROOM)}
        if rooms:
            quotas = {path: Quota(room, self.costs[path]) for path, (room,) in rooms.items()}
            object.__setattr__(found, "quotas", quotas)
        return found

    def record(self, own: Any) -> dict[str, float]:
        """How many rows are trained, and what they cost."""
        counts = {path: rows.count for path, rows in own[ROWS].items()}
        numbers = (count * self.quotas[path].cost.row for path, count in counts.items())
        return {"rows": float(sum(counts.values())), "numbers": float(sum(numbers))}


def rooms_for(rows: Mapping[Path, Rows]) -> Decided:
    """How much room these rows take, as it is decided."""
    return tuple((_ROOM + path, (each.capacity,)) for path, each in rows.items())


def _no_rows(quota: Quota) -> Rows:
    layout = quota.cost.layout
    return Rows(jnp.full(layout.index_shape(quota.rows), layout.count, jnp.int32), layout)


def kernel_norms(variables: Any, chosen: Mapping[Path, Quota]) -> dict[Path, jax.Array]:
    """path -> f[channels]: the norms of the rows of kernels."""
    rows = {path: every_row(quota.cost.layout) for path, quota in chosen.items()}
    return row_norms(take_rows(variables, rows), rows)
