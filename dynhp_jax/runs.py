"""What a run is: the part that stays the same (`Trainer`) and where it stands (`Run`).

A `Run` goes into a checkpoint as its arrays, `run.state`, and `host_part(run, trainer)`; a
`Trainer` of the same config makes the `Run` again from the two.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax import batch_size, compiling, data, memory, models, training
from dynhp_jax.checkpoint import Checkpoint
from dynhp_jax.config import Config
from dynhp_jax.data import Dataset
from dynhp_jax.errors import ConfigError
from dynhp_jax.groups import fan_out, parameter_count
from dynhp_jax.network import Network, whole_network
from dynhp_jax.training import TrainState

UNLIMITED = "none"

Keeps = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples on the device, cut to the input units that the arrays of the network still have."""

    images: jax.Array  # f32[examples, ...]
    labels: jax.Array  # i32[examples]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Where a run stands between two epochs.

    Attributes:
      epoch: epochs done.
      batch: the controller's exact mini-batch; `batch_in_use` is what is compiled.
      network: sizes of the arrays, and the groups in them.
      keeps: which units of the whole network the arrays hold, {group: sorted indices}.
      state: the arrays; `advance` consumes them.
      prices: the fan-out of every gate among the survivors, {group: f32[units]}.
      splits: 'train', 'test' and, if some of it is held out, 'validation'.
      memory_kib: of every epoch so far, by the paper's meter.
      best: (test error in percent, epoch) of the best epoch so far.
    """

    epoch: int
    batch: int
    network: Network
    keeps: Keeps
    state: TrainState
    prices: Mapping[str, jax.Array]
    splits: Mapping[str, Split]
    memory_kib: tuple[float, ...] = ()
    best: tuple[float, int] = (float("inf"), 0)


class Trainer:
    """What stays the same from epoch to epoch.

    Args:
      config: the run.
      dataset: its data.
      programs: where compiled programs are kept and counted.

    Raises:
      ConfigError: the budget is smaller than the network plus one example, the batch larger than
        the training set, or a group unknown.
    """

    def __init__(self, config: Config, dataset: Dataset, programs: compiling.Programs):
        self.config, self.dataset, self.programs = config, dataset, programs
        names = config.pruning.groups if config.gated else None
        self.whole = whole_network(build_spec(config, dataset), names, config.gates.inputs)
        self.tx = training.make_optimizer(config)
        self.meter = memory.PaperMeter(memory.example_bytes(dataset.example_shape))
        self.whole_parameters = numbers_in(self.whole.spec.shapes()["params"])
        self.budget_bytes = self._budget()
        self.examples = len(dataset.y_train)
        batching = config.batching
        if batching.size > self.examples:
            raise ConfigError(
                "batch.size", batching.size, f"at most the {self.examples} training examples"
            )
        self.controller = {
            "fixed": lambda: batch_size.Fixed(),
            "dynhp": lambda: batch_size.DynHP(batching.alpha),
            "cabs": lambda: batch_size.CABS(batching.eta),
        }[batching.rule]()

    def _budget(self) -> int | None:
        budget = self.config.memory.budget
        if budget == UNLIMITED:
            return None
        if budget == "sp":
            return self.meter.memory_bytes(self.whole_parameters, self.config.memory.sp_batch)
        budget_bytes = memory.parse_bytes(budget)
        self.meter.check_budget(budget_bytes, self.whole_parameters)
        return budget_bytes

    def room(self, parameters: int) -> int:
        """The largest mini-batch that budget and training set allow beside so many parameters."""
        if self.budget_bytes is None:
            return self.examples
        return min(self.meter.room(self.budget_bytes, parameters), self.examples)

    def batch_in_use(self, batch: int) -> int:
        """The size that is compiled for the controller's: on the grid, unless it is fixed."""
        if self.config.batching.rule == "fixed":
            return batch
        return batch_size.on_grid(batch, self.config.batch.grid)

    @functools.cached_property
    def steps_on_host(self) -> bool:
        """Whether the host calls every step, instead of one program that loops over them."""
        return jax.default_backend() == "cpu" and self.whole.convolves

    def start(self) -> Run:
        """A run before its first epoch."""
        size, room = self.config.batching.size, self.room(self.whole_parameters)
        network = self.whole
        draw = self.programs.get(
            "initial state",
            network.spec,
            lambda: jax.jit(lambda: training.initial_state(network, self.config, self.tx)),
        )
        state = draw()
        keeps = {name: np.arange(group.size) for name, group in network.groups.items()}
        _, prices = measure(self, network, jax.device_get(state.masks))
        return Run(0, min(size, room), network, keeps, state, prices, self.splits(keeps))

    def resume(self, checkpoint: Checkpoint) -> Run:
        """The run that `host_part` and its state were saved from."""
        host = checkpoint.host
        keeps = {name: np.asarray(kept, np.int64) for name, kept in host["keeps"].items()}
        network, state = self._network(host), checkpoint.state
        _, prices = measure(self, network, jax.device_get(state.masks))
        return Run(
            epoch=checkpoint.epoch,
            batch=host["batch"],
            network=network,
            keeps=keeps,
            state=state,
            prices=prices,
            splits=self.splits(keeps),
            memory_kib=tuple(host["memory_kib"]),
            best=tuple(host["best"]),
        )

    def state_shapes(self, host: Mapping[str, Any]) -> TrainState:
        """The state's shapes and types that belong to a `host_part`."""
        network = self._network(host)
        return jax.eval_shape(lambda: training.initial_state(network, self.config, self.tx))

    def _network(self, host: Mapping[str, Any]) -> Network:
        keeps = {name: np.asarray(kept, np.int64) for name, kept in host["keeps"].items()}
        return Network(models.from_dict(host["spec"]), self.whole.groups.shrunk(keeps))

    def splits(self, keeps: Keeps) -> dict[str, Split]:
        """The data on the device, without the input units that `keeps` lacks."""
        data = self.dataset
        arrays = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
        if len(data.y_validation):
            arrays["validation"] = (data.x_validation, data.y_validation)

        def ready(images, labels):
            inputs = images.reshape(len(images), *self.whole.spec.input_shape)  # flat for the MLP
            return Split(jnp.asarray(self.whole.cut_inputs(inputs, keeps)), jnp.asarray(labels))

        return {name: ready(*pair) for name, pair in arrays.items()}


def host_part(run: Run, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint needs beside the arrays, as JSON holds it."""
    return {
        "batch": run.batch,
        "spec": run.network.spec.to_dict(),
        "keeps": {name: kept.tolist() for name, kept in run.keeps.items()},
        "memory_kib": list(run.memory_kib),
        "best": list(run.best),
        "seed": trainer.config.seed,
        "compilations": trainer.programs.compilations,
        "compile_seconds": trainer.programs.seconds,
    }


def dataset_of(config: Config) -> Dataset:
    """The data that a config names; the first `data.examples` of the training set, if not all."""
    dataset = data.load(
        config.data.name,
        directory=config.data.dir or None,
        cache=config.data.cache_dir or None,
        validation=config.data.validation,
    )
    count = config.data.examples
    if not count:
        return dataset
    found = len(dataset.x_train)
    if count > found:
        raise ConfigError("data.examples", count, f"0 (all) to {found} with {config.data.name}")
    images, labels = dataset.x_train[:count], dataset.y_train[:count]
    return dataclasses.replace(dataset, x_train=images, y_train=labels)


def build_spec(config: Config, dataset: Dataset) -> models.Spec:
    """The whole network's spec, for the examples of a data set."""
    model = config.model
    options = {
        "hidden": model.hidden or None,
        "width": model.width or None,
        "depth": model.depth or None,
    }
    return models.build(model.name, dataset.example_shape, dataset.num_classes, **options)


def measure(trainer: Trainer, network: Network, masks: Mapping[str, Any]) -> tuple[int, Any]:
    """What is left: parameters in number, and the fan-out of every gate, {group: f32[units]}."""

    def count(alive):
        return parameter_count(network.groups, alive), fan_out(network.groups, alive)

    program = trainer.programs.get("counting", network.spec, lambda: jax.jit(count), masks)
    parameters, prices = program(masks)
    return round(float(parameters)), prices


def numbers_in(tree: Any) -> int:
    """How many numbers the arrays of a tree hold."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
