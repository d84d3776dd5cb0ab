"""The last layers: everything before them is frozen (last-k; the baseline of 2411.06346)."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.costs import Cost, layer_of
from dynhp_jax.finetune.methods.leaves import WholeLeaves


@dataclasses.dataclass(frozen=True)
class LastK(WholeLeaves):
    """The last `k` kernels before the head with what lies beside them (biases), and the head.

    Last is meant in the order of execution. Stored are the inputs of these layers.
    """

    k: int = 2

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 0:
            raise UserError(f"k is {shown(self.k)}; allowed: a number of layers, 0 or more")

    def beside(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> Iterable[Path]:
        """The leaves of these layers.

        Raises:
          UserError: the model has fewer layers.
        """
        of_head = below(self.head or layer_of(list(costs)[-1], costs))
        before = [path for path in costs if not of_head(path)]
        if self.k > len(before):
            raise UserError(
                f"k is {self.k} and the model has {len(before)} kernels beside its head; allowed:"
                f" from 0 to {len(before)}"
            )
        layers = [below(layer_of(path, costs)) for path in before[len(before) - self.k :]]
        return [path for path in leaves if any(inside(path) for inside in layers)]
