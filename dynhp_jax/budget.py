"""A run's byte budget, held against its own compiled steps.

`Budget` compiles the steps of a network, meters them, and finds what fits. Nothing is allocated to
find out, and what was compiled to meter it is what the run then executes. What was found for a
network of some sizes is kept: looks cost compilations only where the arrays became smaller.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from dynhp_jax import (
    batch_size,
    compiling,
    devices,
    feeding,
    fitting,
    memory,
    metering,
    savings,
    train_state,
    training,
)
from dynhp_jax.config import Config
from dynhp_jax.errors import ConfigError
from dynhp_jax.gradients import estimator
from dynhp_jax.metering import Bytes
from dynhp_jax.network import Network
from dynhp_jax.savings import NOTHING, Savings
from dynhp_jax.sections import SAVINGS

CHUNK = 1000  # examples that are evaluated at once, whatever the batch in training

Shape = jax.ShapeDtypeStruct


class Exceeded(AssertionError):
    """A compiled step takes more than the budget: an error in this library, not the user's."""


@dataclasses.dataclass
class Found:
    """What is known of one network's sizes.

    Attributes:
      sizes: bytes of the epoch, by batch.
      room: the largest batch that fits, once more was asked for.
      state: the shapes of the state.
    """

    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    room: int | None = None
    state: train_state.TrainState | None = None


class Budget:
    """The budget of a run by the meter 'xla'.

    Args:
      config: the run.
      whole: its network before anything is pruned.
      programs: where compiled programs are kept.
      examples: of every split, {'train': ..., 'test': ...}.

    Attributes:
      bytes: the budget, of each device; None if there is none, or the paper's meter counts.
      devices: how many there are that mini-batches are spread over.
      unit: a mini-batch is so many equal parts, of which each device has one in memory at a time.
      used: the savings without which the whole network's smallest mini-batch would not fit.
      config, tx: of the run with these savings.

    Raises:
      ConfigError: not even with the savings that the config allows; or mini-batches cannot be in
        equal shares for the devices, or there are fewer of these.
    """

    def __init__(
        self,
        config: Config,
        whole: Network,
        programs: compiling.Programs,
        examples: Mapping[str, int],
    ):
        self.programs, self.examples, self.whole = programs, dict(examples), whole
        self.devices = devices.count(config.devices)
        self._found: dict[Any, Found] = {}
        self._asked = config
        self._use(NOTHING)
        self._check_shares(config)
        self.bytes = self._limit()
        if self.bytes is not None:
            least = self._economise(config.memory.allow, self.bytes)
            if least > self.bytes:
                raise self._too_small(least)

    def _use(self, used: Savings) -> None:
        config = used.applied(self._asked)
        self.used, self.config = used, config
        self.tx = train_state.make_optimizer(config, used)
        self._found.clear()
        self.unit = used.parts
        if used.parts == 1 and estimator(self.whole, config) == "micro":
            self.unit = config.batch.micro_batches
        self.unit *= self.devices

    def _check_shares(self, config: Config) -> None:
        """Whether every device gets the same share of each mini-batch."""
        if self.devices == 1:
            return
        examples, size = self.examples["train"], config.batching.size
        if self.unit > examples:
            allowed = f"at most {examples} where there are so many training examples"
            raise ConfigError("devices", config.devices, allowed)
        if config.batching.rule == "fixed" and size % self.unit:
            allowed = f"a multiple of {self.unit}: equal shares for {self.devices} devices"
            raise ConfigError("batch.size", size, allowed)

    def _limit(self) -> int | None:
        budget = self.config.memory.budget
        if self.config.memory.meter != "xla" or budget == memory.UNLIMITED:
            return None
        if budget == "sp":
            batch = min(self.config.memory.sp_batch, self.examples["train"])
            return self.total(self.whole, max(self._whole_parts(batch), self.unit))
        return memory.parse_bytes(budget)

    @property
    def smallest(self) -> int:
        """The smallest mini-batch, in whole parts."""
        return self._whole_parts(savings.smallest_batch(self.config), up=True)

    def _economise(self, allowed: Iterable[str], enough: int) -> int:
        """Takes savings in their order until the smallest mini-batch takes `enough` bytes or less.

        One that does not lower the bytes is left out again. Returns the bytes that are reached.
        """
        self._use(NOTHING)
        best, least = NOTHING, self._least()
        for change in savings.ladder(self._asked, allowed, self.smallest):
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
            metering.total(self.evaluation_bytes(self.whole, 1, split))
            for split in self.examples
            if split != "train"
        ]
        return max(self.total(self.whole, self.smallest), *sizes)

    def _too_small(self, least: int) -> ConfigError:
        """Says the smallest budgets: with what is allowed now, and with all that there is."""
        batch, offers = self.smallest, [(least, self.used.names)]
        lowest = self._economise(SAVINGS, 0)
        if lowest < least:
            offers.append((lowest, self.used.names))
        said = " or ".join(
            memory.kib(size, up=True) + (f" with config.memory.allow={names!r}" if names else "")
            for size, names in offers
        )
        return ConfigError(
            "memory.budget",
            self._asked.memory.budget,
            f"at least {said}, which the whole network takes with a mini-batch of {batch}",
        )

    # -- what steps take ---------------------------------------------------------------------------

    @functools.cached_property
    def steps_on_host(self) -> bool:
        """Whether the host calls every step, instead of one program that loops over them."""
        return self.whole.slow_in_loops

    def training_program(
        self, network: Network, batch: int, on_host: bool | None = None
    ) -> jax.stages.Compiled:
        """The compiled epoch, or the step that the host calls; the run's own."""
        on_host = self.steps_on_host if on_host is None else on_host
        what = (network, self.config, self.tx, self.examples["train"], batch, self.used)
        key = (network.spec, batch, self.used)
        state, number = self.state_shapes(network), Shape((), np.int32)
        fed = self.fed(network, batch)
        images, labels = self._data_shapes(network, fed)
        data = (images, labels, train_state.given_shapes(state), Shape((fed,), np.int32))
        if not on_host and not self.streams(network, "train"):
            make = functools.partial(training.make_epoch, *what)
            return self.programs.get("epoch", key, make, state, *data, number)
        name, make = ("step", training.make_one_step) if on_host else ("part", training.make_part)
        tally = jax.eval_shape(train_state.empty_tally, state)
        return self.programs.get(
            name,
            key,
            lambda: devices.jitted(make(*what), self.devices, donate_argnums=(0, 1)),
            *(state, tally, *data, number),
        )

    def streams(self, network: Network, split: str) -> bool:
        """Whether a split is sent to the device in chunks; see `feeding`."""
        return feeding.streams(self.config, self.examples[split], network.spec.input_shape)

    def fed(self, network: Network, batch: int) -> int:
        """How many examples of the training set `training_program` takes at once."""
        shape = network.spec.input_shape
        return feeding.at_once(self.config, self.examples["train"], shape, batch)

    def evaluated(self, chunk: int, split: str) -> int:
        """How many examples of a split are evaluated at once, where `chunk` may be.

        No more than it has, but a whole number for each device.
        """
        return -(-min(chunk, self.examples[split]) // self.devices) * self.devices

    def evaluation_program(self, network: Network, chunk: int, split: str) -> jax.stages.Compiled:
        """The compiled evaluation of so many examples, from `evaluated`; the run's own."""
        state = self.state_shapes(network)
        fed = chunk if self.streams(network, split) else self.examples[split]
        return self.programs.get(
            f"evaluation on {split}",
            (network.spec, chunk),
            lambda: training.make_evaluation(network, chunk, self.devices),
            *(state.variables, state.gates, state.masks),
            *self._data_shapes(network, fed),
            Shape((), np.int32),
        )

    def training_bytes(self, network: Network, batch: int) -> Bytes:
        """Bytes of a training step, by part."""
        program = self.training_program(network, batch)
        return metering.training_bytes(program, batch // self.unit, network.spec.input_shape)

    def evaluation_bytes(self, network: Network, chunk: int, split: str) -> Bytes:
        """Bytes of an evaluation with the state beside it, by part."""
        chunk = self.evaluated(chunk, split)
        program = self.evaluation_program(network, chunk, split)
        on_each, shape = chunk // self.devices, network.spec.input_shape
        return metering.evaluation_bytes(program, on_each, shape, self.state_shapes(network))

    def total(self, network: Network, batch: int) -> int:
        """Bytes of a training step."""
        sizes = self.found(network).sizes
        if batch not in sizes:
            sizes[batch] = metering.total(self.training_bytes(network, batch))
        return sizes[batch]

    def found(self, network: Network) -> Found:
        """What is known of a network's sizes so far."""
        return self._found.setdefault(network.spec, Found())

    def scout(self) -> "Budget":
        """A copy whose looks are its own, to be used by another thread."""
        scout = copy.copy(self)
        scout._found = {
            spec: dataclasses.replace(found, sizes=dict(found.sizes))
            for spec, found in self._found.items()
        }
        return scout

    def learn(self, network: Network, found: Found) -> None:
        """Takes what a scout has found."""
        self._found[network.spec] = found

    def looks(self, network: Network) -> dict[str, Any]:
        """What is known of a network's sizes, as JSON holds it."""
        found = self.found(network)
        return {"sizes": [list(item) for item in found.sizes.items()], "room": found.room}

    def remember(self, network: Network, looks: Mapping[str, Any]) -> None:
        """Takes `looks` back, so that a resumed run finds what the uninterrupted one would."""
        found = self.found(network)
        found.sizes, found.room = dict(map(tuple, looks["sizes"])), looks["room"]

    def state_shapes(self, network: Network) -> train_state.TrainState:
        """Shapes of the state of a network."""
        found = self.found(network)
        if found.state is None:
            found.state = train_state.state_shapes(network, self.config, self.tx)
        return found.state

    def _data_shapes(self, network: Network, count: int) -> tuple[Shape, Shape]:
        """Images and labels of so many examples."""
        return (
            Shape((count, *network.spec.input_shape), np.float32),
            Shape((count,), np.int32),
        )

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
        unit, low = self.unit, self.smallest
        if start >= low and self.total(network, start) <= self.bytes:
            low = start
        sizes = self.found(network).sizes
        room = unit * fitting.largest(
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
        splits = [split for split in self.examples if split != "train"]

        def worst(chunk: int) -> int:
            return max(
                metering.total(self.evaluation_bytes(network, chunk, name)) for name in splits
            )

        # What does not grow with the chunk is the state, at least.
        fixed = metering.total(metering.state_bytes(self.state_shapes(network)))
        chunk = before
        while self.bytes is not None and (size := worst(chunk)) > self.bytes:
            if chunk == 1:
                raise Exceeded(f"evaluating one example takes {size} bytes of {self.bytes}")
            chunk = min(chunk, max(self.examples[name] for name in splits))
            room = int(chunk * (self.bytes - fixed) / (size - fixed))
            chunk = min(_power_of_two(room), max(1, chunk // 2))
        return chunk

    def check(self, name: str, parts: Bytes) -> None:
        """Raises Exceeded if a step takes more than the budget."""
        if self.bytes is not None and metering.total(parts) > self.bytes:
            raise Exceeded(
                f"{name} takes {metering.total(parts)} bytes of {self.bytes}: {parts};"
                " this is an error in dynhp_jax, please report it"
            )

    def _on_grid(self, batch: int) -> int:
        if self.config.batching.rule == "fixed":
            return self._whole_parts(batch)
        grid = batch_size.on_grid(batch, self.config.batch.grid)
        return max(self._whole_parts(grid), self.smallest)

    def _next_on_grid(self, batch: int) -> int:
        """The smallest grid size from `batch` on, within the training set."""
        if self.config.batching.rule == "fixed":
            return batch
        ratio, size = self.config.batch.grid, batch
        while batch_size.on_grid(size, ratio) < batch and size < self.examples["train"]:
            size = min(self.examples["train"], size + (1 if size < 32 else 8 - size % 8))
        return size

    def _whole_parts(self, batch: int, up: bool = False) -> int:
        """`batch` in whole parts: the next one down, or up."""
        return -(-batch // self.unit) * self.unit if up else batch // self.unit * self.unit


def _power_of_two(number: int) -> int:
    """The largest up to `number`; 1 for none."""
    return 2 ** (max(1, number).bit_length() - 1)
