"""Rows of kernels that are trained, chosen anew between epochs: what all methods have in common.

Of the chosen rows alone there is a gradient, a state of the optimizer and, of what their layers
read, a copy for the backward pass (`finetune.selected`). The head, by default the last kernel and
what lies beside it, is trained whole and outside of the budget, as in the papers.
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
from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.bit_activations import bit_activations
from dynhp_jax.finetune.costs import Cost, channel_costs
from dynhp_jax.finetune.drawing import Quota, quotas, row_norms
from dynhp_jax.finetune.optimizer_rows import move
from dynhp_jax.finetune.rows import Rows, apply_rows, leaves_by_path, take_rows, zero_probes
from dynhp_jax.finetune.selected import selected
from dynhp_jax.training.extension import EpochStart, Extension

ROWS, WHOLE = "rows", "whole"  # the two parts of what is trained


@dataclasses.dataclass(frozen=True)
class Selection(Extension):
    """Rows inside a budget, and a head; derive from it to say which rows.

    Attributes:
      budget: numbers of one example: weights and stored activations of the rows (`Cost.row`).
      layers: paths of the kernels that rows are chosen from, such as those of `rank_layers`; () for
        all but the head's.
      head: below which path everything is trained whole; '' for the last kernel's layer.
      every: epochs between two choices; 0 for one choice for good.
      bits: whether ReLU, max-pool and the like keep bits for the backward pass, exactly.
      quotas: how many rows of each kernel; of the model that the method is bound to.
      whole: paths of what is trained whole; likewise.
    """

    budget: float = 0.0
    layers: tuple[Path, ...] = ()
    head: Path = ""
    every: int = 1
    bits: bool = True
    quotas: Mapping[Path, Quota] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    whole: tuple[Path, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self):
        number = isinstance(self.budget, (int, float)) and not isinstance(self.budget, bool)
        if not number or not 0 <= self.budget < math.inf:
            raise UserError(f"budget is {shown(self.budget)}; allowed: numbers, 0 or more")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 0:
            raise UserError(f"every is {shown(self.every)}; allowed: whole epochs, 0 or more")
        if isinstance(self.layers, str) or not all(isinstance(p, str) for p in self.layers):
            raise UserError(f"layers is {shown(self.layers)}; allowed: a tuple of paths of kernels")

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

    # -- the parts of a step -----------------------------------------------------------------------

    def bound(self, apply: Callable, shapes: Any, inputs: Any) -> Selection:
        """With the quotas of a model.

        Raises:
          UserError: there is no such kernel, or the budget is below the cheapest row.
        """
        costs = channel_costs(apply, shapes, inputs)
        head = self.head or list(costs)[-1].rpartition("/")[0]
        inside, leaves = below(head), leaves_by_path(shapes)
        whole = tuple(path for path in leaves if inside(path))
        if not whole:
            raise UserError(f"nothing lies below the head {head!r}; give a path of the variables")
        unknown = [path for path in self.layers if path not in costs]
        if unknown:
            raise UserError(
                f"there is no kernel {unknown[0]!r} whose rows can be chosen; there are:"
                f" {', '.join(costs)}"
            )
        names = self.layers or tuple(path for path in costs if path not in whole)
        found = dataclasses.replace(self)
        object.__setattr__(found, "whole", whole)
        chosen = found.shares({path: costs[path] for path in names if path not in whole})
        object.__setattr__(found, "quotas", chosen)
        return found

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """The rows of the first epoch."""
        return {ROWS: self.first(key, variables)}

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """Other rows, and the optimizer's state of those that stay."""
        if self.nothing_chosen(own):  # units were pruned, and the optimizer started anew
            return {**own, ROWS: self.first(start.key, variables)}, opt_state
        if not self.due(start.epoch):
            return own, opt_state
        rows = self.next(start.key, own, variables, start.epoch)
        return {**own, ROWS: rows}, self._moved(opt_state, own[ROWS], rows, variables, start)

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
        whole = self._whole(variables)

        def init(probes: Mapping[Path, Any]) -> Any:
            return start.tx.init(
                {"params": {ROWS: dict(probes), WHOLE: whole}, "gates": start.gates}
            )

        tx = optax.GradientTransformation(init, start.tx.update)
        return move(tx, opt_state, zero_probes(variables, old), old, new)

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """Probes of the chosen rows, and the head."""
        return {ROWS: zero_probes(variables, own[ROWS]), WHOLE: self._whole(variables)}

    def _whole(self, variables: Any) -> dict[Path, Any]:
        leaves = leaves_by_path(variables)
        return {path: leaves[path] for path in self.whole}

    def forward(self, apply: Callable) -> Callable:
        """The model with chosen rows, and with bits for what is piecewise linear."""
        inner = bit_activations(apply) if self.bits else apply
        chosen = selected(inner, self.quotas) if self.quotas else None

        def f(variables: Any, trained: Any, own: Any, *rest: Any) -> Any:
            variables = replaced(variables, trained[WHOLE])
            if chosen is None:
                return inner(variables, *rest)
            return chosen(variables, own[ROWS], trained[ROWS], *rest)

        return f

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """Chosen rows and the head, changed in place."""
        whole = optax.apply_updates(trained[WHOLE], change[WHOLE])
        variables = replaced(variables, whole)
        return apply_rows(variables, own[ROWS], change[ROWS]), own

    def record(self, own: Any) -> dict[str, float]:
        """How many rows are trained, and what they cost."""
        return {
            "rows": float(sum(quota.rows for quota in self.quotas.values())),
            "numbers": float(sum(quota.numbers for quota in self.quotas.values())),
        }


def _no_rows(quota: Quota) -> Rows:
    layout = quota.cost.layout
    return Rows(jnp.full(layout.index_shape(quota.rows), layout.count, jnp.int32), layout)


def replaced(variables: Any, leaves: Mapping[Path, Any]) -> Any:
    """The variables with other leaves at some paths."""
    names, structure = list(leaves_by_path(variables)), jax.tree.structure(variables)
    old = jax.tree.leaves(variables)
    return structure.unflatten(
        [leaves.get(name, leaf) for name, leaf in zip(names, old, strict=True)]
    )


def kernel_norms(variables: Any, chosen: Mapping[Path, Quota]) -> dict[Path, jax.Array]:
    """path -> f[channels]: the norms of the rows of kernels."""
    rows = {}
    for path, quota in chosen.items():
        layout = quota.cost.layout
        every = jnp.arange(layout.count, dtype=jnp.int32)
        rows[path] = Rows(jnp.broadcast_to(every, layout.index_shape(layout.count)), layout)
    return row_norms(take_rows(variables, rows), rows)
