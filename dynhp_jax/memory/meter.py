"""The interface of memory meters: how a run's bytes are counted, and what its budget has room for.

The config names a run's meter (`memory.meter`), `registry.METERS` has it, and a run asks it for all
that depends on which one it is. `arithmetic.Arithmetic` counts by a formula, `allocated.Allocated`
by what compiled programs allocate.
"""

from collections.abc import Mapping, Set
from typing import Any, ClassVar, Protocol, Self

from dynhp_jax.memory.fusion import Measured

UNLIMITED = "none"  # the budget of a run without one
SOFT_PRUNING = "sp"  # the budget of what soft pruning takes: the whole network at `sp_batch`


class Network(Protocol):
    """What a meter knows of a network: what tells its sizes from others'."""

    sizes: Any


class Metered(Protocol):
    """A run as its meter sees it.

    Attributes:
      budget: as the config has it: bytes as text, UNLIMITED or SOFT_PRUNING.
      sp_batch: the mini-batch of SOFT_PRUNING.
      examples: of the training set.
      fixed: whether the mini-batch stays as it was asked for.
      grid: ratio of the sizes that are compiled (`batch_size.size_grid.on_grid`).
      unit: a mini-batch is so many equal parts: for devices, or one after the other.
      smallest: the smallest mini-batch.
      whole: the network before anything is pruned.
      parameters: that it has.
      example_bytes: of the inputs of one example, in float32.
    """

    budget: str
    sp_batch: int
    examples: int
    fixed: bool
    grid: float
    unit: int
    smallest: int
    whole: Network
    parameters: int
    example_bytes: int

    def step_bytes(self, network: Network, batch: int) -> int:
        """What the compiled training step allocates; costs a compilation."""

    def economise(self, limit: int) -> None:
        """Does without what `memory.allow` names until the smallest mini-batch fits the limit.

        Raises:
          ConfigError: it does not fit even so.
        """


class Meter(Protocol):
    """Counts the memory of one run. A class of `registry.METERS` makes it of a `Metered`.

    Attributes:
      label: its name in tables and figures.
      side_by_side: whether it can count for runs that are trained as one program.
      decided_by: fields of the config, by dotted names, that decide what fits: a run goes on with
        the same values of these, even where other runs may change them.
      beside: which number of the whole network figures show beside an epoch's memory.
      budget_bytes: the budget; None without one.
      device_bytes: what no program that is executed may exceed by XLA's count, on each device; None
        where programs are not what the budget speaks of.
    """

    label: ClassVar[str]
    side_by_side: ClassVar[bool]
    decided_by: ClassVar[Set[str]]
    beside: ClassVar[str]
    budget_bytes: int | None
    device_bytes: int | None

    @classmethod
    def measured(cls, budget: str) -> Measured:
        """How much has to be known of compiled programs under a budget."""

    def room(self, parameters: int) -> int:
        """The largest mini-batch that is known to be allowed beside so many surviving parameters.

        At most the training set.
        """

    def fit(self, network: Network, wanted: int, before: int = 0) -> tuple[int, int]:
        """The mini-batch where the rule asks for `wanted`.

        Args:
          network: at its present sizes.
          wanted: by the rule, at least 1 and at most `room`.
          before: the size that was compiled last, 0 if none.

        Returns:
          (the exact batch, the batch to compile).
        """

    def may_change(self, network: Network, wanted: int, in_use: int) -> bool:
        """Whether `fit` may find another size than the one in use; compiles nothing."""

    def capped(self, network: Network, wanted: int) -> int:
        """`wanted`, or the room for mini-batches where that is known to be less."""

    def epoch_bytes(self, parameters: int, batch: int, allocated: int | None) -> int:
        """Bytes of an epoch.

        Args:
          parameters: that survive.
          batch: examples of a mini-batch.
          allocated: by the largest program that was executed; None where nobody counted.
        """

    def whole_bytes(self) -> int:
        """Bytes of the whole network's training step with `sp_batch` examples."""

    def layers(self, record: Mapping[str, Any]) -> dict[str, float]:
        """What an epoch's memory is made of, in KiB: of a line of metrics.jsonl."""

    def scout(self) -> Self:
        """A copy whose looks are its own, to be used by another thread."""

    def learn(self, network: Network, scout: Self) -> None:
        """Takes what a scout has found of a network."""

    def looks(self, network: Network) -> dict[str, Any]:
        """What was found of a network, for a checkpoint: {'sizes': [[batch, bytes]], 'room'}."""

    def remember(self, network: Network, looks: Mapping[str, Any]) -> None:
        """Takes `looks` back, so that a resumed run finds what the uninterrupted one would."""
