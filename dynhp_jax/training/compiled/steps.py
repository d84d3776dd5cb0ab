"""The steps that a run executes, compiled for networks of any sizes, and the bytes they take."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.jaxprs.trace import abstract
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.memory.registry import METERS
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.config import Config, compiled
from dynhp_jax.training.extension import PLAIN, reads_own
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.step import devices, epoch, evaluation, optimizer, savings, streaming
from dynhp_jax.training.step.gradients import estimator
from dynhp_jax.training.step.savings import NOTHING, Savings
from dynhp_jax.training.step.setup import Setup
from dynhp_jax.training.step.state import (
    Tally,
    TrainState,
    abstract_inputs,
    abstract_state,
    empty_tally,
    initial_state,
)

Shape = jax.ShapeDtypeStruct


class Steps:
    """Training and evaluation steps of a run.

    Args:
      config: the run.
      whole: its network before anything is pruned.
      programs: where compiled programs are kept.
      examples: of every split, {'train': ..., 'test': ...}.
      used: what the run does without to take less memory.
      tx: the optimizer of the parameters; None for the one that the config names.

    Attributes:
      config, tx: of the run with these savings.
      asked: the config as given.
      whole, programs, examples, used: as given.
      devices: how many there are that mini-batches are spread over, in all processes.
      unit: a mini-batch is so many equal parts, of which each device has one in memory at a time.
      on_host: whether the host calls every step, instead of one program that loops over them.
      measured: how much has to be known of its programs.
      compiled_for: what programs depend on beside `Network.sizes`, a mini-batch and `used`.

    Raises:
      ConfigError: there are fewer devices than the config asks for, or `batch.variance` is exact
        and the model mixes examples.
    """

    def __init__(
        self,
        config: Config,
        whole: Network,
        programs: Programs,
        examples: Mapping[str, int],
        used: Savings = NOTHING,
        tx: optax.GradientTransformation | None = None,
    ):
        self.asked, self.config = config, used.applied(config)
        self.whole, self.examples, self.used = whole, dict(examples), used
        self.programs = programs
        self.own_tx = tx
        self.tx = optimizer.make_optimizer(self.config, used, tx)
        self.devices = devices.count(config.devices)
        parts = used.parts
        if parts == 1 and estimator(whole, self.config) == "micro":
            parts = self.config.batch.micro_batches
        self.unit = parts * self.devices
        self.on_host = whole.slow_in_loops
        given = whole.model, whole.task, whole.example_shape, tuple(sorted(examples.items()))
        memory = config.memory
        self.measured = METERS[memory.meter].measured(memory.budget)
        self.compiled_for = compiled(self.config), given, tx, self.measured
        self._state_shapes: dict[Any, TrainState] = {}

    @property
    def smallest(self) -> int:
        """The smallest mini-batch, in whole parts."""
        return -(-savings.smallest_batch(self.asked) // self.unit) * self.unit

    def in_shares(self, batch: int) -> int:
        """The mini-batch of equal parts that is at most `batch`, but at least one for each part."""
        return max(batch // self.unit, 1) * self.unit

    def check_parts(self, most: int, why: str) -> None:
        """Whether mini-batches of at most `most` examples have one for each of their parts.

        Raises:
          ConfigError: they have not; says where `most` is from: "where {why}".
        """
        if self.unit > most:
            field, asked = "devices", self.asked.devices
            if self.devices == 1:
                field, asked = "batch.micro_batches", self.asked.batch.micro_batches
            raise ConfigError(field, asked, f"at most {most} where {why}")

    def saving(self, used: Savings) -> "Steps":
        """The steps of the same run with these savings instead."""
        given = self.asked, self.whole, self.programs, self.examples
        return Steps(*given, used, self.own_tx)

    def setup(self, network: Network) -> Setup:
        """What steps of a network are made from."""
        examples = self.examples["train"]
        return Setup(network, self.config, self.tx, examples, self.used)

    def program(self, name: str, key: tuple, make: Callable, *arguments: Any):
        """An executable of the run; see `Programs.get`.

        Args:
          name: what it is for.
          key: what tells it from others of the name, beside `compiled_for`; the spec comes first.
          make: returns the function.
          *arguments: arrays or shapes.
        """
        key = (*key, self.compiled_for)
        return self.programs.get(name, key, make, *arguments, measured=self.measured)

    def training_program(self, network: Network, batch: int) -> jax.stages.Compiled:
        """What the run executes to train: an epoch, a part of one (streamed data), or a step.

        Args:
          network: of any sizes.
          batch: examples of a mini-batch.
        """
        setup, key = self.setup(network), (*network.sizes, batch, self.used)
        state, *data = self._training_arguments(network, batch)
        if not self.carries(network):
            make = functools.partial(epoch.make_epoch, setup, batch)
            return self.program(self._trains(network), key, make, state, *data)
        make = epoch.make_one_step if self.on_host else epoch.make_part
        return self.program(
            self._trains(network),
            key,
            lambda: devices.jitted(make(setup, batch), self.config.devices, donate_argnums=(0, 1)),
            *(state, self._tally(network), *data),
        )

    def _training_arguments(self, network: Network, batch: int) -> tuple[Any, ...]:
        """Shapes of what a training program takes, but for the tally that may be carried."""
        state, fed = self.state_shapes(network), self.fed(network, batch)
        moved = network.model.example.shape if self.config.data.augmented else None
        given = abstract_inputs(state, moved, network.model.draws)
        examples = self._data_shapes(self._held(network, "train"), fed)
        return state, *examples, given, Shape((fed,), np.int32), Shape((), np.int32)

    def _tally(self, network: Network) -> Tally:
        """Shapes of the tally of an epoch."""
        state = self.state_shapes(network)
        return jax.eval_shape(lambda state: empty_tally(state, network.sums), state)

    def state_after_a_step(self, network: Network) -> TrainState:
        """Shapes of the state after a step with the smallest mini-batch; compiles nothing."""
        take = epoch.make_one_step(self.setup(network), self.unit)
        state, *data = self._training_arguments(network, self.unit)
        return jax.eval_shape(take, state, self._tally(network), *data)[0]

    def starting(self, network: Network) -> tuple[jax.stages.Compiled, Bytes]:
        """What makes the initial state of a network out of its variables (or a key) and keys."""
        make = functools.partial(initial_state, network, self.config, self.tx)
        key, given = jax.eval_shape(lambda: jax.random.key(0)), network.given
        program = self.program(
            "initial state",
            (*network.sizes, given is None, self.used),
            lambda: jax.jit(make),
            *(key if given is None else abstract(given), key),
            () if network.unbound == PLAIN else key,
        )
        return program, step_bytes.starting_bytes(program, self.state_shapes(network), self.tried)

    def names(self, network: Network) -> list[str]:
        """What the programs of an epoch are called."""
        return [self._trains(network), *map(_evaluates, sorted(self.examples.keys() - {"train"}))]

    def _trains(self, network: Network) -> str:
        if not self.carries(network):
            return "epoch"
        return "step" if self.on_host else "part"

    def carries(self, network: Network) -> bool:
        """Whether the tally is carried from call to call: `training_program` is no whole epoch."""
        return self.on_host or self.streams(network, "train")

    def streams(self, network: Network, split: str) -> bool:
        """Whether a split is sent to the device in chunks; see `streaming`."""
        return streaming.streams(self.config, self.examples[split], self._held(network, split))

    def fed(self, network: Network, batch: int) -> int:
        """How many examples of the training set `training_program` takes at once."""
        example = self._held(network, "train")
        return streaming.at_once(self.config, self.examples["train"], example, batch)

    def evaluated(self, chunk: int, split: str) -> int:
        """How many examples of a split are evaluated at once, where `chunk` may be.

        No more than it has, but a whole number for each device.
        """
        return -(-min(chunk, self.examples[split]) // self.devices) * self.devices

    def evaluation_program(self, network: Network, chunk: int, split: str) -> jax.stages.Compiled:
        """What the run executes to evaluate `chunk` examples of a split; see `evaluated`."""
        model, *others = network.sizes
        read = tuple(others) if reads_own(network.extension) else ()
        return self.program(
            _evaluates(split),
            (model, read, chunk),
            lambda: evaluation.make_evaluation(network, chunk, self.config.devices),
            *self._evaluation_arguments(network, chunk, split),
        )

    def _evaluation_arguments(self, network: Network, chunk: int, split: str) -> tuple[Any, ...]:
        """Shapes of what an evaluation takes."""
        fed = chunk if self.streams(network, split) else self.examples[split]
        examples, number = self._data_shapes(network.model.example, fed), Shape((), np.int32)
        return *network.evaluated(self.state_shapes(network)), *examples, number, number

    def sums_of_an_evaluation(self, network: Network) -> Any:
        """Shapes of the sums of an evaluation of the test set; compiles nothing."""
        chunk = self.devices
        evaluate = evaluation.make_evaluation(network, chunk, self.config.devices)
        return jax.eval_shape(evaluate, *self._evaluation_arguments(network, chunk, "test"))

    def training_bytes(self, network: Network, batch: int) -> Bytes:
        """Bytes of a training step, by part."""
        program = self.training_program(network, batch)
        gathered = self._gathered(network, batch // self.unit)
        return step_bytes.training_bytes(program, gathered, self.carries(network), self.tried)

    def evaluation_bytes(self, network: Network, chunk: int, split: str) -> Bytes:
        """Bytes of an evaluation with the state beside it, by part."""
        chunk = self.evaluated(chunk, split)
        program = self.evaluation_program(network, chunk, split)
        gathered, state = self._gathered(network, chunk // self.devices), self.state_shapes(network)
        return step_bytes.evaluation_bytes(program, gathered, state, self.tried)

    @property
    def tried(self) -> bool:
        """Whether programs are tried out to meter them: where bytes decide what is done."""
        return self.measured is not Measured.NOT

    def state_shapes(self, network: Network) -> TrainState:
        """Shapes of the state of a network."""
        found = self._state_shapes.get(network.sizes)
        if found is None:
            found = abstract_state(network, self.config, self.tx)
            # Two threads may ask (`shape_plans`): both find the same, and nothing is ever taken
            # out.
            self._state_shapes[network.sizes] = found
        return found

    def _held(self, network: Network, split: str) -> Any:
        """Shapes and types of an example of a split, as it is kept for a network."""
        whole = split == "train" and self.config.data.augmented
        return (self.whole if whole else network).model.example

    def _data_shapes(self, example: Any, count: int) -> tuple[Any, Any]:
        """Inputs and targets of so many examples."""
        return batch_of(example, count), batch_of(self.whole.target, count)

    def _gathered(self, network: Network, count: int) -> int:
        """Bytes of so many examples, with their targets."""
        return count * array_bytes((network.model.example, network.target))


def _evaluates(split: str) -> str:
    """What the program is called that evaluates a split."""
    return f"evaluation on {split}"
