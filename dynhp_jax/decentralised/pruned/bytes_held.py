"""Bytes that a node holds: of its compiled step, or by the paper's arithmetic; and what fits."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.memory.paper import BYTES_PER_NUMBER
from dynhp_jax.pruning.prune_to import prune_to
from dynhp_jax.pruning.targets import Parameters
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.structure.keeps import UnitKeeps

METERS = ("compiled", "paper")


@dataclasses.dataclass(frozen=True, eq=False)
class BytesHeld:
    """A node's meter.

    Attributes:
      meter: 'compiled': what a training step of one node of really its sizes allocates, gates and
        optimizer included; 'paper': 4 bytes for each parameter and each number of the inputs.
      groups: of the whole network.
      example_bytes: of the inputs of one example.
      step_bytes: `step_bytes(widths, batch)`, for 'compiled'.
    """

    meter: str
    groups: Groups
    example_bytes: int
    step_bytes: Callable[[Any, int], int]

    def __post_init__(self):
        if self.meter not in METERS:
            raise UserError(f"meter is {self.meter!r}; allowed: {', '.join(METERS)}")

    def of(self, keeps: Keeps, batch: int) -> int:
        """Bytes of a node with these units of the whole network and this mini-batch."""
        if self.meter == "paper":
            parameters = Parameters(1).measure(self.groups, keeps)
            return BYTES_PER_NUMBER * parameters + self.example_bytes * batch
        widths = {name: len(keeps[name]) if name in keeps else group.size
                  for name, group in self.groups.items()}  # fmt: skip
        return self.step_bytes(tuple(sorted(widths.items())), batch)

    def batch(self, keeps: Keeps, budget: int | None, least: int, most: int) -> int:
        """The largest mini-batch that fits: `most`, a half of it, a quarter, ..., or `least`."""
        size = most
        while size > least and budget is not None and self.of(keeps, size) > budget:
            size = max(least, size // 2)
        return size

    def fitted(
        self, scores: Mapping[str, Any], held: UnitKeeps, budget: int | None, batch: int, node: int
    ) -> UnitKeeps:
        """The units that a node keeps: those of the highest scores that its budget has room for.

        Every group loses the same share.

        Args:
          scores: {group: f64[units]}, of all units.
          held: the units that it has.
          budget: bytes; None for any.
          batch: the mini-batch that has to fit beside them.
          node: its number, for the message.

        Raises:
          UserError: not even the smallest network fits.
        """
        if budget is None or self.of(held, batch) <= budget:
            return held
        local = self.groups.shrunk(held)
        mine = {name: np.asarray(scores[name])[keep] for name, keep in held.items()}
        try:
            pruned = prune_to(mine, local, _Held(budget, self, held, batch), scope="group")
        except UserError:
            least = {name: np.arange(max(group.least, group.blocks))
                     for name, group in self.groups.items()}  # fmt: skip
            raise UserError(
                f"the budget of node {node} is {budget:,} bytes, and with one unit of every group"
                f" and a mini-batch of {batch} it takes {self.of(least, batch):,}; give it more, or"
                " a smaller batch"
            ) from None
        return held.then(pruned.keeps)


@dataclasses.dataclass(frozen=True, eq=False)
class _Held:
    """A target for `prune_to`: bytes of a node."""

    most: int
    bytes_held: BytesHeld
    held: UnitKeeps
    batch: int
    what = "bytes of the node"

    @property
    def compiles(self) -> bool:
        return self.bytes_held.meter == "compiled"

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """What it takes with these of its units."""
        local = UnitKeeps(groups.check_keeps(keeps), groups)
        return self.bytes_held.of(self.held.then(local), self.batch)
