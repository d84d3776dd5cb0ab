"""Biases alone (BitFit; Ben Zaken et al. 2021, 2106.10199).

The gradient of a bias is a sum of cotangents: no input of any layer is kept, only what activations
need, which `bits` makes small.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.methods.leaves import WholeLeaves


@dataclasses.dataclass(frozen=True)
class BiasOnly(WholeLeaves):
    """Leaves that are called `names`, and the head.

    Attributes:
      names: last parts of paths, such as those of Flax; those of normalisation layers count.
    """

    names: tuple[str, ...] = ("bias",)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
            raise UserError(f"names is {shown(self.names)}; allowed: a tuple of names of leaves")

    def beside(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> Iterable[Path]:
        """The biases.

        Raises:
          UserError: no leaf is called so.
        """
        found = [path for path in leaves if path.rpartition("/")[2] in self.names]
        if not found:
            there = sorted({path.rpartition("/")[2] for path in leaves})
            raise UserError(
                f"no leaf is called {' or '.join(map(repr, self.names))}, so there is no bias to"
                f" train; the leaves are called {', '.join(there[:8])}: give names=(...,)"
            )
        return found
