"""Meters that count by a formula: bytes of surviving parameters and of a mini-batch."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from dynhp_jax.batch_size import size_grid
from dynhp_jax.common.byte_sizes import kib, parse_bytes
from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.memory.meter import SOFT_PRUNING, UNLIMITED, Metered, Network


class Formula(abc.ABC):
    """Bytes that grow by the same number with every example of a mini-batch."""

    @abc.abstractmethod
    def memory_bytes(self, parameters: int, batch: int) -> int:
        """Bytes of a network with so many parameters and a mini-batch of `batch` examples."""

    def memory_kib(self, parameters: int, batch: int) -> float:
        """The same in KiB."""
        return self.memory_bytes(parameters, batch) / 1024

    def room(self, budget_bytes: int, parameters: int) -> int:
        """The largest batch inside the budget; 0 if not even one example fits."""
        alone = self.memory_bytes(parameters, 0)
        return max(0, (int(budget_bytes) - alone) // (self.memory_bytes(parameters, 1) - alone))

    def smallest_budget(self, parameters: int) -> int:
        """Bytes of the network plus one example: no training fits below."""
        return self.memory_bytes(parameters, 1)

    def budget_bytes(self, budget: str, parameters: int) -> int:
        """The bytes that a budget names.

        Raises:
          ArgumentError: no number of bytes, or below `smallest_budget`.
        """
        found, least = parse_bytes(budget, "budget"), self.smallest_budget(parameters)
        if found < least:
            alone = kib(self.memory_bytes(parameters, 0))
            allowed = f"at least {kib(least, up=True)}, the network ({alone}) plus one example"
            raise ArgumentError("budget", budget, allowed)
        return found


class Arithmetic:
    """A `meter.Meter` by a formula: no program is compiled to know what fits.

    A subclass has a label, and a formula that it makes of the bytes of one example's inputs.

    Args:
      run: that is metered.

    Raises:
      ArgumentError: the budget is no number of bytes, or too small for one example.
    """

    label: ClassVar[str]
    formula: ClassVar[type[Formula]]
    side_by_side = True
    decided_by = frozenset()
    beside = "model_kib"
    device_bytes = None

    def __init__(self, run: Metered):
        self._run, self._formula = run, self.formula(run.example_bytes)
        self.budget_bytes = self._budget_bytes()

    def _budget_bytes(self) -> int | None:
        if self._run.budget == UNLIMITED:
            return None
        if self._run.budget == SOFT_PRUNING:
            return self.whole_bytes()
        return self._formula.budget_bytes(self._run.budget, self._run.parameters)

    @classmethod
    def measured(cls, budget: str) -> Measured:
        """Nothing has to be known of programs."""
        return Measured.NOT

    def room(self, parameters: int) -> int:
        """The largest mini-batch that the budget and the training set allow."""
        if self.budget_bytes is None:
            return self._run.examples
        return min(self._formula.room(self.budget_bytes, parameters), self._run.examples)

    def fit(self, network: Network, wanted: int, before: int = 0) -> tuple[int, int]:
        """(`wanted`, what is compiled for it): on the grid, unless the mini-batch is fixed."""
        size = wanted if self._run.fixed else size_grid.on_grid(wanted, self._run.grid)
        unit = self._run.unit
        return wanted, max(size // unit, 1) * unit

    def may_change(self, network: Network, wanted: int, in_use: int) -> bool:
        """Whether another size is compiled for `wanted` than the one in use."""
        return self.fit(network, wanted)[1] != in_use

    def capped(self, network: Network, wanted: int) -> int:
        """`wanted`, which `room` has bounded already."""
        return wanted

    def epoch_bytes(self, parameters: int, batch: int, allocated: int | None) -> int:
        """By the formula, whatever was allocated."""
        return self._formula.memory_bytes(parameters, batch)

    def whole_bytes(self) -> int:
        """Of the whole network at `sp_batch`."""
        return self._formula.memory_bytes(self._run.parameters, self._run.sp_batch)

    def layers(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The network, and what the mini-batch adds to it."""
        alone = self._formula.memory_kib(record["parameters"], 0)
        return {"network": alone, "mini-batch": record["memory_kib"] - alone}

    def scout(self) -> Self:
        """Itself: there is nothing to find out."""
        return self

    def learn(self, network: Network, scout: Self) -> None:
        """Nothing."""

    def looks(self, network: Network) -> dict[str, Any]:
        """None."""
        return {"sizes": [], "room": None}

    def remember(self, network: Network, looks: Mapping[str, Any]) -> None:
        """Nothing."""
