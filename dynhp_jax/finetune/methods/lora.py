"""LoRA: a change of low rank for each kernel is trained in the kernel's place (2106.09685).

W + (alpha / r) A B, see `finetune.low_rank`; the kernels themselves are frozen, and neither a
change nor a gradient of their size is made. Evaluation, and what `dp.fit` returns, has the changes
merged into the kernels. Stored is the whole input of every adapted layer: LoRA saves gradients and
states of the optimizer, no activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.low_rank import (
    KernelAxes,
    LowRank,
    kernel_axes,
    low_rank,
    merge_low_rank,
    start_low_rank,
)
from dynhp_jax.finetune.methods.leaves import Leaves
from dynhp_jax.finetune.product import CONVOLUTION, DENSE
from dynhp_jax.finetune.rows import leaves_by_path

FACTORS = "factors"


@dataclasses.dataclass(frozen=True)
class LoRA(Leaves):
    """Changes of low rank, and the head.

    Attributes:
      rank: r.
      alpha: the changes are multiplied by alpha / r; 0 for alpha = r.
      layers: paths of the adapted kernels; () for those of all matrix products and of all
        convolutions without groups, but the head's.
      axes: of the adapted kernels; of the model that the method is bound to.
      parameters: how many are trained; likewise.
    """

    rank: int = 4
    alpha: float = 0.0
    layers: tuple[Path, ...] = ()
    axes: Mapping[Path, KernelAxes] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    parameters: int = dataclasses.field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        if self.compress:
            raise UserError("lora needs whole inputs; leave compress out, or take another method")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(f"rank is {shown(self.rank)}; allowed: a whole number, 1 or more")
        if isinstance(self.layers, str) or not all(isinstance(p, str) for p in self.layers):
            raise UserError(f"layers is {shown(self.layers)}; allowed: a tuple of paths of kernels")

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank if self.alpha else 1.0

    def found(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """With the paths of the adapted kernels, without their axes.

        Raises:
          UserError: an adapted kernel is the head's, or there is none to adapt.
        """
        found = super().found(costs, leaves)
        whole = set(found["whole"])
        both = [path for path in self.layers if path in whole]
        if both:
            raise UserError(f"{both[0]!r} is below the head, which is trained whole; leave it out")
        usual = (path for path, cost in costs.items() if cost.kind in (DENSE, CONVOLUTION))
        paths = self.layers or [path for path in usual if path not in whole]
        if not paths:
            raise UserError("there is no kernel beside the head's that LoRA could adapt")
        return found | {"axes": dict.fromkeys(paths)}

    def bound(self, apply: Callable, shapes: Any, inputs: Any) -> LoRA:
        """With the axes of the adapted kernels.

        Raises:
          UserError: there is no such kernel, or it is used otherwise than in products with data.
        """
        bound, leaves = super().bound(apply, shapes, inputs), leaves_by_path(shapes)
        axes = kernel_axes(apply, shapes, inputs, paths=bound.axes)
        factors = jax.eval_shape(lambda: bound._start(axes, shapes, jax.random.key(0)))
        trained = [*jax.tree.leaves(factors), *(leaves[path] for path in bound.whole)]
        object.__setattr__(bound, "axes", axes)
        object.__setattr__(bound, "parameters", sum(leaf.size for leaf in trained))
        return bound

    def start(self, variables: Any, key: jax.Array) -> dict[str, Any]:
        """The factors, with which the model is the one that it was."""
        return {FACTORS: self._start(self.axes, variables, key)}

    def _start(
        self, axes: Mapping[Path, KernelAxes], variables: Any, key: jax.Array
    ) -> dict[Path, LowRank]:
        leaves = leaves_by_path(variables)
        return {
            path: start_low_rank(key_for(key, path), each, self.rank, leaves[path].dtype)
            for path, each in axes.items()
        }

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """The factors and the head."""
        return {FACTORS: own[FACTORS], **super().trained(variables, own)}

    def transformed(self, apply: Callable) -> Callable:
        """The model with the changes beside its kernels."""
        return low_rank(apply, self.scale)

    def arguments(self, trained: Any, own: Any) -> tuple[Any, ...]:
        """The factors."""
        return (trained[FACTORS],)

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """The head, and other factors."""
        variables, _ = super().updated(variables, own, trained, change)
        return variables, {FACTORS: optax.apply_updates(trained[FACTORS], change[FACTORS])}

    def evaluated(self, variables: Any, own: Any) -> Any:
        """The changes merged into the kernels."""
        return merge_low_rank(variables, own[FACTORS], self.scale)

    def averaged(self, own: Any) -> Any:
        """The factors: a mean of the weights is one of the factors and the head."""
        return {FACTORS: own[FACTORS]}

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> dict[str, Any]:
        """The factors, each axis cut as the kernel's."""
        return {
            FACTORS: {
                path: _cut(path, old, self.axes[path], mirrored)
                for path, old in own[FACTORS].items()
            }
        }

    def record(self, own: Any) -> dict[str, float]:
        """How many parameters are trained."""
        return {"parameters": float(self.parameters)}


def _cut(path: Path, old: LowRank, axes: KernelAxes, mirrored: Callable) -> LowRank:
    """The factors of the smaller kernel.

    A column of A times a row of ones (and ones times a row of B) lies as the kernel does.
    """
    rank = len(axes.shared) + bool(axes.steps)  # which axis of B counts it
    columns, rows = [], []
    for k in range(old.a.shape[-1]):
        column, row = old.a[..., k : k + 1], jnp.take(old.b, jnp.asarray([k]), rank)
        of_a, of_b = old.axes.in_leaf(column, 0 * row + 1), old.axes.in_leaf(0 * column + 1, row)
        columns.append(axes.edges(mirrored({path: of_a})[path])[0])
        rows.append(axes.edges(mirrored({path: of_b})[path])[1])
    return LowRank(jnp.stack(columns, -1), jnp.stack(rows, rank), axes)
