"""A run's byte budget, held against its own compiled steps.

`Budget` meters the steps of a network, and finds what fits. Nothing is allocated to find out, and
what was compiled to meter it is what the run then executes. What was found for a network of some
sizes is kept: looks cost compilations only where the arrays became smaller.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from dynhp_jax.batch_size import rules
from dynhp_jax.common import byte_sizes
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.memory import largest_fit, paper
from dynhp_jax.memory.options import SAVINGS
from dynhp_jax.structure.groups import Keeps
from dynhp_jax.surgery.cut import cut
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import savings
from dynhp_jax.training.step.savings import NOTHING, Savings

CHUNK = 1000  # examples that are evaluated at once, whatever the batch in training


class Exceeded(AssertionError):
    """A compiled step takes more than the budget: an error in this library, not the user's."""


@dataclasses.dataclass
class Found:
    """What is known of one network's sizes.

    Attributes:
      sizes: bytes of the epoch, by batch.
      room: the largest batch that fits, once more was asked for.
    """

    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    room: int | None = None


class Budget:
    """The budget of a run by the meter 'xla'.

    Args:
      steps: of the run, without savings.

    Attributes:
      bytes: the budget, of each device; None if there is none, or the paper's meter counts.
      steps: the same with the savings without which the whole network's smallest mini-batch
        would not fit.

    Raises:
      ConfigError: not even with the savings that the config allows; or mini-batches cannot be in
        equal shares for the devices, or in equal micro-batches.
    """

    def __init__(self, steps: Steps):
        self.steps, self.whole = steps, steps.whole
        self._config, self._examples = steps.asked, steps.examples
        self._found: dict[Any, Found] = {}
        self._check_shares()
        self.bytes = self._limit()
        if self.bytes is not None:
            least = self._economise(self._config.memory.allow, self.bytes)
            if least > self.bytes:
                raise self._too_small(least)

    def _use(self, used: Savings) -> None:
        self.steps = self.steps.saving(used)
        self._found.clear()

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

    def _limit(self) -> int | None:
        budget = self._config.memory.budget
        if self._config.memory.meter != "xla" or budget == paper.UNLIMITED:
            return None
        if budget == "sp":
            batch = min(self._config.memory.sp_batch, self._examples["train"])
            return self.total(self.whole, max(self._whole_parts(batch), self.steps.unit))
        return byte_sizes.parse_bytes(budget)

    @property
    def smallest(self) -> int:
        """The smallest mini-batch, in whole parts."""
        return self._whole_parts(savings.smallest_batch(self._config), up=True)

    def _economise(self, allowed: Iterable[str], enough: int) -> int:
        """Takes savings in their order until the smallest mini-batch takes `enough` bytes or less.

        One that does not lower the bytes is left out again. Returns the bytes that are reached.
        """
        self._use(NOTHING)
        best, least = NOTHING, self._least()
        for change in savings.ladder(self._config, allowed, self.smallest):
            if least <= enough:
                break
            candidate = dataclasses.replace(best, **change)
            self._use(candidate)
            size = self._least()
            if size < least:
                best, least = candidate, size
        self._use(best)
        return least

    def _least(self) -> int:
        """Bytes of the whole network with the smallest mini-batch, or to evaluate one example."""
        sizes = [
            step_bytes.total(self.steps.evaluation_bytes(self.whole, 1, split))
            for split in self._examples
            if split != "train"
        ]
        return max(self.total(self.whole, self.smallest), *sizes)

    def _too_small(self, least: int) -> ConfigError:
        """Says the smallest budgets: with what is allowed now, and with all that there is."""
        batch, offers = self.smallest, [(least, self.steps.used.names)]
        lowest = self._economise(SAVINGS, 0)
        if lowest < least:
            offers.append((lowest, self.steps.used.names))
        said = " or ".join(
            byte_sizes.kib(size, up=True)
            + (f" with config.memory.allow={names!r}" if names else "")
            for size, names in offers
        )
        return ConfigError(
            "memory.budget",
            self._config.memory.budget,
            f"at least {said}, which the whole network takes with a mini-batch of {batch}",
        )

    # -- what steps take ---------------------------------------------------------------------------

    def total(self, network: Network, batch: int) -> int:
        """Bytes of a training step."""
        sizes = self.found(network).sizes
        if batch not in sizes:
            sizes[batch] = step_bytes.total(self.steps.training_bytes(network, batch))
        return sizes[batch]

    def found(self, network: Network) -> Found:
        """What is known of a network's sizes so far."""
        return self._found.setdefault(network.model, Found())

    def scout(self) -> "Budget":
        """A copy whose looks are its own, to be used by another thread; the steps are the same."""
        scout = copy.copy(self)
        scout._found = {
            spec: dataclasses.replace(found, sizes=dict(found.sizes))
            for spec, found in self._found.items()
        }
        return scout

    def learn(self, network: Network, found: Found) -> None:
        """Takes what a scout has found."""
        self._found[network.model] = found

    def looks(self, network: Network) -> dict[str, Any]:
        """What is known of a network's sizes, as JSON holds it."""
        found = self.found(network)
        return {"sizes": [list(item) for item in found.sizes.items()], "room": found.room}

    def remember(self, network: Network, looks: Mapping[str, Any]) -> None:
        """Takes `looks` back, so that a resumed run finds what the uninterrupted one would."""
        found = self.found(network)
        found.sizes, found.room = dict(map(tuple, looks["sizes"])), looks["room"]

    # -- what fits ---------------------------------------------------------------------------------

    def fit(self, network: Network, wanted: int, before: int) -> tuple[int, int]:
        """The mini-batch that the budget allows where `wanted` is asked for.

        Args:
          network: at its present sizes.
          wanted: by the rule, at least 1.
          before: the size that was compiled last, 0 if none: the start of the search, and no
            smaller one is taken to come down to the grid.

        Returns:
          (the exact batch, the batch to compile): the exact one is `wanted` or, if the budget
          binds, the largest that fits, which is then compiled as it is; else the compiled one lies
          on the grid.
        """
        wanted = max(wanted, self.smallest)
        on_grid = self._on_grid(wanted)
        before = self._whole_parts(min(before, wanted))
        use = max(on_grid, before)
        if self.bytes is None:
            return wanted, use
        found = self.found(network)
        top = self._whole_parts(self._next_on_grid(wanted))
        if found.room is None and not self._surely_fits(network, use, top):
            found.room = self._room(network, before or use, top)
        if found.room is not None and wanted >= found.room:
            return found.room, found.room
        return wanted, use

    def may_change(self, network: Network, wanted: int, in_use: int) -> bool:
        """Whether `fit` may find another size than the one in use; compiles nothing new."""
        wanted = max(wanted, self.smallest)
        use = max(self._on_grid(wanted), self._whole_parts(min(in_use, wanted)))
        room = self.found(network).room
        if self.bytes is not None and room is not None and wanted >= room:
            return in_use != room
        if self.bytes is None or room is not None or use != in_use:
            return use != in_use
        return not self._surely_fits(network, use, self._whole_parts(self._next_on_grid(wanted)))

    def capped(self, network: Network, wanted: int) -> int:
        """`wanted`, or the room for mini-batches where that is known to be less."""
        room = self.found(network).room
        return wanted if self.bytes is None or room is None else min(wanted, room)

    def _surely_fits(self, network: Network, size: int, top: int) -> bool:
        """Whether `top` fits; from `size`, of which the fixed part would not even grow."""
        sizes = self.found(network).sizes
        if any(self.total(network, known) <= self.bytes for known in sizes if known >= top):
            return True
        return self.total(network, size) * top <= self.bytes * size

    def _room(self, network: Network, start: int, top: int) -> int | None:
        """The largest batch up to `top` that fits; None if that is `top` itself."""
        unit, low = self.steps.unit, self.smallest
        if start >= low and self.total(network, start) <= self.bytes:
            low = start
        sizes = self.found(network).sizes
        room = unit * largest_fit.largest(
            lambda parts: self.total(network, parts * unit),
            self.bytes,
            low // unit,
            top // unit,
            {batch // unit: size for batch, size in sizes.items() if batch % unit == 0},
        )
        if room < low:
            raise Exceeded(f"a mini-batch of {low} takes {self.total(network, low)} bytes")
        return None if room == top else room

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

    def _on_grid(self, batch: int) -> int:
        if self._config.batching.rule == "fixed":
            return self._whole_parts(batch)
        grid = rules.on_grid(batch, self._config.batch.grid)
        return max(self._whole_parts(grid), self.smallest)

    def _next_on_grid(self, batch: int) -> int:
        """The smallest grid size from `batch` on, within the training set."""
        if self._config.batching.rule == "fixed":
            return batch
        ratio, size = self._config.batch.grid, batch
        while rules.on_grid(size, ratio) < batch and size < self._examples["train"]:
            size = min(self._examples["train"], size + (1 if size < 32 else 8 - size % 8))
        return size

    def _whole_parts(self, batch: int, up: bool = False) -> int:
        """`batch` in whole parts: the next one down, or up."""
        unit = self.steps.unit
        return -(-batch // unit) * unit if up else batch // unit * unit


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
        return budget.total(network.shrunk(params["params"], keeps), batch)

    return meter
