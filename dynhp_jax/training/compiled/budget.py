"""The budget of a run: its meter, and the steps that are held to what the meter says."""

from collections.abc import Callable

import jax

from dynhp_jax.common.errors import ConfigError, of_fields
from dynhp_jax.memory import paper
from dynhp_jax.memory.allocated import Exceeded
from dynhp_jax.memory.registry import METERS
from dynhp_jax.structure.counts import numbers_in
from dynhp_jax.structure.groups import Keeps
from dynhp_jax.surgery.cut import cut
from dynhp_jax.training.compiled import economise, step_bytes
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.network import Network

CHUNK = 1000  # examples that are evaluated at once, whatever the batch in training


class Budget:
    """The budget of a run: what its meter (`memory.meter`) sees of it, and what steps are held to.

    Args:
      steps: of the run, without savings.

    Attributes:
      steps: the same with the savings without which the whole network's smallest mini-batch
        would not fit.
      meter: by which the run counts memory.
      bytes: what no step may exceed on any device; None without a budget of such bytes.
      parameters, example_bytes: of the whole network and of one example's inputs, in float32.

    Raises:
      ConfigError: the budget is too small, even with the savings that the config allows; or
        mini-batches cannot be in equal shares for the devices, or in equal micro-batches.
    """

    def __init__(self, steps: Steps):
        self.steps, self.whole = steps, steps.whole
        self._config, self._examples = steps.asked, steps.examples
        inputs = jax.tree.leaves(self.whole.model.example)
        self.example_bytes = sum(paper.example_bytes(leaf.shape) for leaf in inputs)
        self.parameters = numbers_in(self.whole.model.shapes()["params"])
        self._check_shares()
        with of_fields(budget="memory.budget"):
            self.meter = METERS[self._config.memory.meter](self)
        self.bytes = self.meter.device_bytes

    def _check_shares(self) -> None:
        """Whether a mini-batch can be in equal parts: for every device, or micro-batches."""
        devices, unit, size = self.steps.devices, self.steps.unit, self._config.batching.size
        self.steps.check_parts(self._examples["train"], "there are so many training examples")
        if self._config.batching.rule == "fixed" and size % unit:
            parts = [f"{devices} devices"] if devices > 1 else []
            if unit > devices:
                parts.append(f"{unit // devices} micro-batches (batch.micro_batches)")
            allowed = f"a multiple of {unit}: equal shares for {' with '.join(parts)}"
            raise ConfigError("batch.size", size, allowed)

    # -- what the meter sees (`memory.meter.Metered`) ----------------------------------------------

    @property
    def budget(self) -> str:
        return self._config.memory.budget

    @property
    def sp_batch(self) -> int:
        return self._config.memory.sp_batch

    @property
    def examples(self) -> int:
        return self._examples["train"]

    @property
    def fixed(self) -> bool:
        return self._config.batching.rule == "fixed"

    @property
    def grid(self) -> float:
        return self._config.batch.grid

    @property
    def unit(self) -> int:
        return self.steps.unit

    @property
    def smallest(self) -> int:
        return self.steps.smallest

    def step_bytes(self, network: Network, batch: int) -> int:
        """Bytes of a training step."""
        return step_bytes.total(self.steps.training_bytes(network, batch))

    def economise(self, limit: int) -> None:
        """Takes the savings that the smallest mini-batch needs; see `economise.within`."""
        self.steps = economise.within(self.steps, limit)

    # -- what steps are held to --------------------------------------------------------------------

    def chunk(self, network: Network, before: int = CHUNK) -> int:
        """How many examples may be evaluated at once: `before` if they fit, else a power of two."""
        splits = [split for split in self._examples if split != "train"]
        most = max(self._examples[name] for name in splits)

        def worst(chunk: int) -> int:
            return max(
                step_bytes.total(self.steps.evaluation_bytes(network, chunk, name))
                for name in splits
            )

        # What does not grow with the chunk is the state, at least.
        fixed = step_bytes.total(step_bytes.state_bytes(self.steps.state_shapes(network)))
        chunk = self.fitting_chunk(worst, fixed, before, most)
        if not chunk:
            raise Exceeded(f"evaluating one example takes {worst(1)} bytes of {self.bytes}")
        return chunk

    def fitting_chunk(
        self,
        measure: Callable[[int], int],
        fixed: int,
        before: int,
        most: int,
        even: Callable[[int], int] = lambda room: room,
    ) -> int:
        """How many examples may be computed with at once: `before` if they fit.

        Args:
          measure: examples -> bytes.
          fixed: bytes that do not grow with them.
          before: the number to begin with.
          most: examples that there are.
          even: a number for which there is room, a power of two -> the one to take instead.

        Returns:
          So many; 0 if not even one example fits.
        """
        chunk = before
        while self.bytes is not None and (size := measure(chunk)) > self.bytes:
            if chunk == 1:
                return 0
            chunk = min(chunk, most)
            room = int(chunk * (self.bytes - fixed) / (size - fixed))
            chunk = even(min(_power_of_two(room), max(1, chunk // 2)))
        return chunk

    def has_room(self, parts: Bytes) -> bool:
        """Whether something takes no more than the budget."""
        return self.bytes is None or step_bytes.total(parts) <= self.bytes

    def check(self, name: str, parts: Bytes) -> None:
        """Raises Exceeded if something that is executed takes more than the budget."""
        if not self.has_room(parts):
            raise Exceeded(
                f"{name} takes {step_bytes.total(parts)} bytes of {self.bytes}: {parts};"
                " this is an error in dynhp_jax, please report it"
            )


def _power_of_two(number: int) -> int:
    """The largest up to `number`; 1 for none."""
    return 2 ** (max(1, number).bit_length() - 1)


def bytes_of_run(budget: Budget, network: Network, batch: int) -> Callable[[Keeps], int]:
    """The meter of a run's own steps, at a mini-batch.

    Args:
      budget: meters the run's steps.
      network: before the cut; prune with its `groups`.
      batch: examples of a mini-batch.
    """
    groups = network.groups

    def meter(keeps: Keeps) -> int:
        params = jax.eval_shape(lambda tree: cut(tree, groups, keeps), network.model.shapes())
        return budget.step_bytes(network.shrunk(params["params"], keeps), batch)

    return meter
