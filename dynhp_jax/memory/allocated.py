"""The meter of what XLA allocates: a budget held against a run's own compiled steps.

Nothing is allocated to find out what fits, and what was compiled to meter it is what the run then
executes. What was found for a network of some sizes is kept: looks cost compilations only where the
arrays became smaller.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from dynhp_jax.batch_size import size_grid
from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.memory import largest_fit
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.memory.meter import SOFT_PRUNING, UNLIMITED, Metered, Network


class Exceeded(AssertionError):
    """A compiled step takes more than the budget: an error in this library, not the user's."""


@dataclasses.dataclass
class Looks:
    """What is known of one network's sizes.

    Attributes:
      sizes: bytes of the training step, by batch.
      room: the largest batch that fits, once more was asked for.
    """

    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    room: int | None = None


class Allocated:
    """See `meter.Meter`.

    Args:
      run: that is metered.

    Raises:
      ConfigError: the budget is no number of bytes, or too small for the smallest mini-batch.
    """

    label = "XLA"
    side_by_side = False
    decided_by = frozenset({"devices", "data.resident"})  # the budget is one device's
    beside = "memory_kib"

    def __init__(self, run: Metered):
        self._run = run
        self._looks: dict[Any, Looks] = {}
        self.budget_bytes = self.device_bytes = self._budget_bytes()
        if self.device_bytes is not None:
            run.economise(self.device_bytes)

    def _budget_bytes(self) -> int | None:
        run = self._run
        if run.budget == UNLIMITED:
            return None
        if run.budget == SOFT_PRUNING:
            batch = min(run.sp_batch, run.examples)
            return run.step_bytes(run.whole, max(self._whole_parts(batch), run.unit))
        return parse_bytes(run.budget, "budget")

    @classmethod
    def measured(cls, budget: str) -> Measured:
        """Bytes decide between forms of a program only where a budget holds it to them."""
        return Measured.BYTES if budget == UNLIMITED else Measured.FORMS

    # -- what was found so far ---------------------------------------------------------------------

    def total(self, network: Network, batch: int) -> int:
        """Bytes of a training step, measured once."""
        sizes = self._found(network).sizes
        if batch not in sizes:
            sizes[batch] = self._run.step_bytes(network, batch)
        return sizes[batch]

    def _found(self, network: Network) -> Looks:
        return self._looks.setdefault(network.sizes, Looks())

    def scout(self) -> Self:
        """A copy whose looks are its own; the steps are the same."""
        scout = copy.copy(self)
        scout._looks = {
            sizes: dataclasses.replace(found, sizes=dict(found.sizes))
            for sizes, found in self._looks.items()
        }
        return scout

    def learn(self, network: Network, scout: Self) -> None:
        """Takes what a scout has found of a network."""
        self._looks[network.sizes] = scout._found(network)

    def looks(self, network: Network) -> dict[str, Any]:
        """What is known of a network's sizes, as JSON holds it."""
        found = self._found(network)
        return {"sizes": [list(item) for item in found.sizes.items()], "room": found.room}

    def remember(self, network: Network, looks: Mapping[str, Any]) -> None:
        """Takes `looks` back."""
        found = self._found(network)
        found.sizes, found.room = dict(map(tuple, looks["sizes"])), looks["room"]

    # -- what fits ---------------------------------------------------------------------------------

    def room(self, parameters: int) -> int:
        """The training set: what is allocated is known only of what was asked for, by `fit`."""
        return self._run.examples

    def fit(self, network: Network, wanted: int, before: int = 0) -> tuple[int, int]:
        """The mini-batch that the budget allows where `wanted` is asked for.

        The search begins with `before`, and no smaller one is taken to come down to the grid.

        Returns:
          (the exact batch, the batch to compile): the exact one is `wanted` or, if the budget
          binds, the largest that fits, which is then compiled as it is; else the compiled one lies
          on the grid.
        """
        wanted = max(wanted, self._run.smallest)
        on_grid = self._on_grid(wanted)
        before = self._whole_parts(min(before, wanted))
        use = max(on_grid, before)
        if self.device_bytes is None:
            return wanted, use
        found = self._found(network)
        top = self._whole_parts(self._next_on_grid(wanted))
        if found.room is None and not self._surely_fits(network, use, top):
            found.room = self._largest(network, before or use, top)
        if found.room is not None and wanted >= found.room:
            return found.room, found.room
        return wanted, use

    def may_change(self, network: Network, wanted: int, in_use: int) -> bool:
        """Whether `fit` may find another size than the one in use; compiles nothing new."""
        wanted = max(wanted, self._run.smallest)
        use = max(self._on_grid(wanted), self._whole_parts(min(in_use, wanted)))
        room = self._found(network).room
        if self.device_bytes is not None and room is not None and wanted >= room:
            return in_use != room
        if self.device_bytes is None or room is not None or use != in_use:
            return use != in_use
        return not self._surely_fits(network, use, self._whole_parts(self._next_on_grid(wanted)))

    def capped(self, network: Network, wanted: int) -> int:
        """`wanted`, or the room for mini-batches where that is known to be less."""
        room = self._found(network).room
        return wanted if self.device_bytes is None or room is None else min(wanted, room)

    def _surely_fits(self, network: Network, size: int, top: int) -> bool:
        """Whether `top` fits; from `size`, of which the fixed part would not even grow."""
        sizes, limit = self._found(network).sizes, self.device_bytes
        if any(self.total(network, known) <= limit for known in sizes if known >= top):
            return True
        return self.total(network, size) * top <= limit * size

    def _largest(self, network: Network, start: int, top: int) -> int | None:
        """The largest batch up to `top` that fits; None if that is `top` itself."""
        unit, low = self._run.unit, self._run.smallest
        if start >= low and self.total(network, start) <= self.device_bytes:
            low = start
        sizes = self._found(network).sizes
        room = unit * largest_fit.largest(
            lambda parts: self.total(network, parts * unit),
            self.device_bytes,
            low // unit,
            top // unit,
            {batch // unit: size for batch, size in sizes.items() if batch % unit == 0},
        )
        if room < low:
            raise Exceeded(f"a mini-batch of {low} takes {self.total(network, low)} bytes")
        return None if room == top else room

    def _on_grid(self, batch: int) -> int:
        if self._run.fixed:
            return self._whole_parts(batch)
        grid = size_grid.on_grid(batch, self._run.grid)
        return max(self._whole_parts(grid), self._run.smallest)

    def _next_on_grid(self, batch: int) -> int:
        """The smallest grid size from `batch` on, within the training set."""
        if self._run.fixed:
            return batch
        size, most = batch, self._run.examples
        while size_grid.on_grid(size, self._run.grid) < batch and size < most:
            size = min(most, size + (1 if size < 32 else 8 - size % 8))
        return size

    def _whole_parts(self, batch: int) -> int:
        return batch // self._run.unit * self._run.unit

    # -- what is written down ----------------------------------------------------------------------

    def epoch_bytes(self, parameters: int, batch: int, allocated: int | None) -> int:
        """By the largest program that was executed."""
        return allocated

    def whole_bytes(self) -> int:
        """Of the whole network's step at `sp_batch`, which costs a compilation."""
        return self.total(self._run.whole, min(self._run.sp_batch, self._run.examples))

    def layers(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The parts of the training step; an evaluation may take more than their sum."""
        return {part: size / 1024 for part, size in record["allocated"]["training"].items()}
