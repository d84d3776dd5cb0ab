"""The static policies of Sparse Update: which convolutions are updated, and how much of each.

Source: Lin et al. 2022 (2206.15472), their repository tiny-training. A policy's name is the memory
that it takes by their count (`costs.sparse_update_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost


class Policy(NamedTuple):
    """A static choice.

    Attributes:
      layers: numbers of the convolutions, in the order of execution.
      ratios: the share of each one's rows that is updated.
      biases: of how many of the last convolutions the biases are updated.
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    biases: int

    def rows(self, costs: Mapping[Path, Cost]) -> dict[Path, int]:
        """path -> how many rows of a kernel are updated, of the convolutions in their order.

        Raises:
          UserError: the network has fewer convolutions.
        """
        names = convolutions(costs)
        if self.layers[-1] >= len(names):
            raise UserError(
                f"the policy updates convolution {self.layers[-1]} and the network has"
                f" {len(names)}, counted from 0; use one of the network's own policies"
            )
        pairs = zip(self.layers, self.ratios, strict=True)
        counts = {names[n]: int(costs[names[n]].channels * ratio) for n, ratio in pairs}
        return {path: count for path, count in counts.items() if count}

    def bias_layers(self, costs: Mapping[Path, Cost]) -> Sequence[Path]:
        """The kernels of the layers whose biases are updated."""
        return convolutions(costs)[-self.biases :]


def convolutions(costs: Mapping[Path, Cost]) -> list[Path]:
    """The kernels that convolutions read, in the order of execution."""
    return [path for path, cost in costs.items() if cost.kind != "dense"]


_LAST = (27, 30, 33, 36, 39, 42, 45, 48)
POLICIES: dict[str, dict[str, Policy]] = {
    "mbv2-w0.35": {
        "49kb": Policy(
            (36, 39, 40, 41, 42, 45, 48, 49), (1, 1, 0, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8), 16
        ),
        "73kb": Policy(
            (32, 33, 36, 39, 41, 42, 45, 48), (1 / 8, 1 / 2, 1 / 2, 1, 1 / 4, 1 / 8, 1 / 8, 1), 20
        ),
        "99kb": Policy(_LAST, (1, 1, 1, 1, 1, 1 / 8, 1 / 2, 1), 25),
        "123kb": Policy(_LAST, (1, 1, 1, 1, 1, 1 / 2, 1, 1), 31),
        "138kb": Policy(_LAST, (1,) * 8, 34),
    },
    "mcunet-5fps": {
        "49kb": Policy((23, 24, 27, 30, 33, 39), (0, 1 / 4, 1 / 2, 1 / 2, 0, 0), 20),
        "74kb": Policy((21, 23, 24, 26, 27, 30), (1, 0, 1, 0, 1 / 2, 1), 21),
        "99kb": Policy((21, 24, 27, 30, 36, 39), (1, 1, 1, 1, 1 / 8, 1 / 4), 22),
        "124kb": Policy((21, 24, 27, 30, 33, 39), (1 / 4, 1, 1, 1, 1 / 2, 1 / 2), 24),
        "148kb": Policy((21, 24, 27, 30, 36, 39), (1, 1, 1, 1, 1, 1 / 2), 23),
    },
}
# TraDy's and MeDyate's budgets: costs of Sparse Update's policies as the papers print them. The
# first is 28,282 by their own formula.
BUDGETS = {"mbv2-w0.35": (27_946, 66_592, 93_696), "mcunet-5fps": (15_936,)}
