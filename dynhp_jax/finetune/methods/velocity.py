"""Velocity: output channels whose outputs still change are trained, the others wait.

Sources: NEq (Bragagnolo et al. 2022, NeurIPS) and its budgeted form (2312.05282). With phi^t the
mean over examples of the cosine between a channel's outputs after epochs t and t - 1,

    v^t = phi^t - phi^(t-1) - mu v^(t-1)        `rule='paper'`; phi^0 = 1, v^0 = 0
    v^t = phi^t - 2 phi^(t-1) + phi^(t-2) + mu v^(t-1)     `rule='code'`, the authors' program

NEq trains channels with |v| > `threshold`; all in the first epoch. With a `budget` of weights these
are the channels of largest |v| by their weights, the longest prefix that fits, without the ties of
the first that does not; a random draw in the first epoch. A channel of a grouped convolution costs
the weights of its group (the authors' program charges depthwise ones too much), and one more with a
bias, which is trained with it.

Saved are gradients and states of the optimizer, no stored input. Outputs are those of kernels and
their biases, without the head's, on the examples that a method may look at; scales of normalisation
layers stay as they are, and kernels that are read in loops. The values of the epoch before are kept
beside the state, from which outputs are computed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.chunked import chunked_prefix
from dynhp_jax.finetune.costs import Cost, layer_of
from dynhp_jax.finetune.digits import of_leaf
from dynhp_jax.finetune.drawing import Quota, capacities, draw, fastest_within, quotas
from dynhp_jax.finetune.methods.leaves import Leaves
from dynhp_jax.finetune.methods.selection import ROWS, Selection
from dynhp_jax.finetune.output_channels import output_costs, outputs_trained, results
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.finetune.rows import Rows, every_row, leaves_by_path, pad_rows, replaced
from dynhp_jax.pruning.criteria.velocity import cosine, moved
from dynhp_jax.training.extension import EpochStart

BEFORE, PHI, CHANGE, SPEED = "before", "phi", "change", "velocity"
RULES = ("paper", "code")


@dataclasses.dataclass(frozen=True)
class Velocity(Selection):
    """Output channels that have not come to rest.

    Attributes:
      budget: numbers of weights; 0 for NEq's threshold.
      threshold: of |v|, without a budget.
      mu: the share of the last velocity.
      rule: 'paper' or 'code'.
      biases: kernel -> its bias, where it has one; of the model that the method is bound to.
    """

    threshold: float = 1e-3
    mu: float = 0.5
    rule: str = "paper"
    biases: Mapping[Path, Path] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        if self.rule not in RULES:
            raise UserError(f"rule is {shown(self.rule)}; allowed: 'paper' or 'code'")
        for name in ("threshold", "mu"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1:
                raise UserError(f"{name} is {shown(value)}; allowed: a number from 0 to 1")
        if self.compress:
            raise UserError("velocity needs whole inputs; leave compress out")

    @property
    def varies(self) -> bool:
        """Always."""
        return True

    def found(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """With what is trained whole; the rest is found in `bound`."""
        return Leaves.found(self, costs, leaves)

    def bound(self, apply: Callable, shapes: Any, inputs: Any) -> Velocity:
        """With the costs of output channels.

        Raises:
          UserError: there is no such kernel, or the budget is below the cheapest channel.
        """
        bound, leaves = super().bound(apply, shapes, inputs), leaves_by_path(shapes)
        costs = output_costs(apply, shapes, inputs)
        usable = [path for path in costs if path not in bound.whole]
        unknown = [path for path in self.layers if path not in usable]
        if unknown or not usable:
            said = f"no output channels of {unknown[0]!r} can be chosen" if unknown else "no kernel"
            raise UserError(f"{said} beside the head's; allowed: {', '.join(usable) or 'none'}")
        names = self.layers or usable
        biases = {path: _bias_of(path, costs, leaves) for path in names}
        biases = {path: bias for path, bias in biases.items() if bias}
        priced = {
            path: dataclasses.replace(costs[path], weight=costs[path].weight + (path in biases))
            for path in names
        }
        chosen = {path: Quota(cost.channels, cost) for path, cost in priced.items()}
        if self.budget:
            chosen = quotas(priced, priced, self.budget)
        for name, value in (("costs", priced), ("biases", biases), ("quotas", chosen)):
            object.__setattr__(bound, name, value)
        return bound

    # -- channels ----------------------------------------------------------------------------------

    def first(self, key: jax.Array, variables: Any) -> dict[Path, Rows]:
        """All channels, or a random draw in the budget."""
        if self.budget:
            return draw(key, self.quotas)
        return {path: every_row(cost.layout) for path, cost in self.costs.items()}

    def next(self, key: jax.Array, own: Any, variables: Any, epoch: int) -> dict[Path, Rows]:
        """The fast ones."""
        speeds = {path: np.abs(np.asarray(each)) for path, each in own[SPEED].items()}
        if self.budget:
            prices = {path: cost.row for path, cost in self.costs.items()}
            masks = fastest_within(speeds, prices, self.budget)
        else:
            masks = {path: each > self.threshold for path, each in speeds.items()}
        chosen = {path: np.flatnonzero(mask) for path, mask in masks.items() if mask.any()}
        return pad_rows(chosen, self.costs, capacities(chosen, self.costs))

    def nothing_chosen(self, own: Any) -> bool:
        """As in `Selection`; but all channels may be at rest."""
        return bool(own[ROWS]) and super().nothing_chosen(own)

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """The channels of the first epoch, phi^0 = 1, v^0 = 0, and the values that they have."""
        return {**super().start(variables, key), **self._at_rest(), BEFORE: self._now(variables)}

    def _at_rest(self) -> dict[str, Any]:
        zeros = {path: jnp.zeros(cost.channels) for path, cost in self.costs.items()}
        return {PHI: {p: each + 1 for p, each in zeros.items()}, CHANGE: zeros, SPEED: dict(zeros)}

    def _now(self, variables: Any) -> dict[Path, Any]:
        leaves = leaves_by_path(variables)
        names = (*self.costs, *self.biases.values(), *self.whole)
        return {path: jnp.array(leaves[path]) for path in dict.fromkeys(names)}

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """With the velocities of the last epoch; then as in `Selection`."""
        if start.epoch > 1 and not self.nothing_chosen(own):
            phi = self._phi(own[BEFORE], variables, start)
            change = {path: each - own[PHI][path] for path, each in phi.items()}
            speed = {
                path: moved(self.rule, self.mu, own[SPEED][path], each, own[CHANGE][path])
                for path, each in change.items()
            }
            own = {**own, PHI: phi, CHANGE: change, SPEED: speed}
        own, opt_state = super().begin_epoch(own, opt_state, variables, start)
        return {**own, BEFORE: self._now(variables)}, opt_state

    def _phi(self, before: Any, variables: Any, start: EpochStart) -> dict[Path, jax.Array]:
        """path -> f[channels]: the mean cosine between the outputs of two epochs."""
        count = min(start.batch, len(start.examples))

        @jax.jit
        def summed(before: Any, variables: Any, inputs: Any) -> dict[Path, Any]:
            old, new = (
                self._outputs(start.apply, tree, inputs, count)
                for tree in (replaced(variables, before), variables)
            )
            found = {}
            for path in self.costs:
                pairs = ((old[path], new[path]), (old[path],) * 2, (new[path],) * 2)
                found[path] = cosine(*(jnp.sum(a * b, 1) for a, b in pairs)).sum(0)
            return found

        parts = [
            summed(before, variables, part.inputs)
            for part in start.examples.chunks(None, count)
            if len(part) == count
        ]
        return jax.tree.map(lambda *each: sum(each) / (count * len(parts)), *parts)

    def _outputs(self, apply: Callable, variables: Any, inputs: Any, count: int) -> Any:
        leaves = leaves_by_path(variables)
        found = results(apply, variables, inputs, self.costs, count)
        return {
            path: each + leaves[self.biases[path]] if path in self.biases else each
            for path, each in found.items()
        }

    # -- the parts of a step -----------------------------------------------------------------------

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """The chosen channels, of biases too, and the head."""
        return super().trained(variables, {**own, ROWS: self.with_biases(own[ROWS])})

    def transformed(self, apply: Callable) -> Callable:
        """The model with gradients of the chosen channels, in parts below their layers."""
        if self.chunk:
            apply = chunked_prefix(apply, tuple(self.costs), self.chunk)
        return outputs_trained(apply)

    def arguments(self, trained: Any, own: Any) -> tuple[Any, ...]:
        """Channels and their probes."""
        return self.with_biases(own[ROWS]), trained[ROWS]

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """The chosen channels and the head, changed in place."""
        with_biases = {**own, ROWS: self.with_biases(own[ROWS])}
        variables, _ = super().updated(variables, with_biases, trained, change)
        return variables, own

    def with_biases(self, rows: Mapping[Path, Rows]) -> dict[Path, Rows]:
        """With the same rows of biases."""
        found = dict(rows)
        for path, bias in self.biases.items():
            if path in rows:
                count = rows[path].layout.count
                layout = RowLayout((count,), of_leaf((count,))[0])
                found[bias] = Rows(rows[path].index, layout)
        return found

    def _moved(self, opt_state: Any, old: Any, new: Any, variables: Any, start: Any) -> Any:
        """A channel that is trained again starts without a momentum, as in the authors' program."""
        both = (self.with_biases(rows) for rows in (old, new))
        return super()._moved(opt_state, *both, variables, start)

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> dict[str, Any]:
        """No channels, at rest; the values of the smaller leaves."""
        kept = {**super().cut(own, mirrored), **self._at_rest()}
        return {**kept, BEFORE: mirrored(own[BEFORE])}


def _bias_of(path: Path, costs: Iterable[Path], leaves: Mapping[Path, Any]) -> Path | None:
    """The one leaf beside a kernel with a number for each of its output channels."""
    layer, count = layer_of(path, dict.fromkeys(costs)), costs[path].channels
    beside = [
        other
        for other, leaf in leaves.items()
        if layer != path and other != path and other.startswith(f"{layer}/")
    ]
    fitting = [other for other in beside if leaves[other].shape == (count,)]
    return fitting[0] if len(fitting) == 1 else None
