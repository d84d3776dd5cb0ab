"""The loop between epochs: train, observe, prune, resize, choose the batch, evaluate.

What an epoch computes on the device is in `training`; this file decides on the host what its shapes
will be. `advance` reads as the method does, from top to bottom. It is a function from one `Run` to
the next; whoever calls it logs the record and saves `host_part(run)` with `run.state`.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax import batch_size, compiling, data, memory, metering, models, training
from dynhp_jax.budget import CHUNK, Budget
from dynhp_jax.checkpoint import Checkpoint
from dynhp_jax.config import Config
from dynhp_jax.criteria import activation
from dynhp_jax.data import Dataset
from dynhp_jax.errors import ConfigError, UserError
from dynhp_jax.groups import fan_out, parameter_count
from dynhp_jax.jaxprs.trace import path_name
from dynhp_jax.network import Network, whole_network
from dynhp_jax.optimizer_surgery import map_like_params
from dynhp_jax.surgery import cut, cut_leaf, plan
from dynhp_jax.training import TrainState

Keeps = Mapping[str, np.ndarray]
Record = dict[str, Any]


class Diverged(UserError):
    """A loss or a parameter is no longer a finite number.

    Attributes:
      epoch: in which it happened.
    """

    def __init__(self, epoch: int):
        self.epoch = epoch
        super().__init__(f"the loss or a parameter became NaN or infinite in epoch {epoch}")


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
      batch: the controller's exact mini-batch.
      batch_in_use: the mini-batch that is compiled.
      chunk: examples that are evaluated at once.
      network: sizes of the arrays, and the groups in them.
      keeps: which units of the whole network the arrays hold, {group: sorted indices}.
      state: the arrays; `advance` consumes them.
      prices: the fan-out of every gate among the survivors, {group: f32[units]}.
      splits: 'train', 'test' and, if some of it is held out, 'validation'.
      memory_kib: of every epoch so far, by the run's meter.
      best: (test error in percent, epoch) of the best epoch so far.
    """

    epoch: int
    batch: int
    batch_in_use: int
    chunk: int
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
        self.dataset, self.programs = dataset, programs
        names = config.pruning.groups if config.gated else None
        self.whole = whole_network(build_spec(config, dataset), names, config.gates.inputs)
        self.meter = memory.PaperMeter(memory.example_bytes(dataset.example_shape))
        self.whole_parameters = _leaf_count(self.whole.spec.shapes()["params"])
        self.examples = len(dataset.y_train)
        batching = config.batching
        sizes = {"batch.size": batching.size, "memory.smallest": config.memory.smallest}
        for field, size in sizes.items():
            if size > self.examples:
                raise ConfigError(field, size, f"at most the {self.examples} training examples")
        counts = {"train": self.examples, "test": len(dataset.y_test)}
        if len(dataset.y_validation):
            counts["validation"] = len(dataset.y_validation)
        self.budget = Budget(config, self.whole, programs, counts)
        self.config, self.tx = self.budget.config, self.budget.tx
        self.budget_bytes = self.budget.bytes if self.by_xla else self._budget()
        self.controller = {
            "fixed": lambda: batch_size.Fixed(),
            "dynhp": lambda: batch_size.DynHP(batching.alpha),
            "cabs": lambda: batch_size.CABS(batching.eta),
        }[batching.rule]()

    @property
    def by_xla(self) -> bool:
        """Whether the budget is held against what XLA allocates, not the paper's arithmetic."""
        return self.config.memory.meter == "xla"

    def _budget(self) -> int | None:
        budget = self.config.memory.budget
        if budget == memory.UNLIMITED:
            return None
        if budget == "sp":
            return self.meter.memory_bytes(self.whole_parameters, self.config.memory.sp_batch)
        budget_bytes = memory.parse_bytes(budget)
        self.meter.check_budget(budget_bytes, self.whole_parameters)
        return budget_bytes

    def room(self, parameters: int) -> int:
        """The largest mini-batch that budget and training set allow beside so many parameters.

        By the paper's meter; what XLA allocates is known only of what was asked for (`fit`).
        """
        if self.budget_bytes is None or self.by_xla:
            return self.examples
        return min(self.meter.room(self.budget_bytes, parameters), self.examples)

    def fit(self, network: Network, wanted: int, before: int = 0) -> tuple[int, int]:
        """The exact batch and the one to compile, where the rule asks for `wanted`.

        By the paper's meter the compiled one is on the grid, unless it is fixed; see `Budget.fit`
        for XLA's. `before` is what was compiled last.
        """
        if self.by_xla:
            return self.budget.fit(network, wanted, before)
        if self.config.batching.rule == "fixed":
            return wanted, wanted
        return wanted, batch_size.on_grid(wanted, self.config.batch.grid)

    @functools.cached_property
    def order(self) -> jax.stages.Compiled:
        """`training.make_order`, compiled; it outlives the programs of one network's sizes."""
        make = functools.partial(training.make_order, self.config, self.examples)
        return self.programs.get("order", self.examples, make, np.int32(1))

    def start(self) -> Run:
        """A run before its first epoch."""
        size, room = self.config.batching.size, self.room(self.whole_parameters)
        network = self.whole
        batch, in_use = self.fit(network, min(size, room))
        chunk = self.budget.chunk(network)
        draw = self.programs.get(
            "initial state",
            network.spec,
            lambda: jax.jit(lambda: training.initial_state(network, self.config, self.tx)),
        )
        state = draw()
        keeps = {name: np.arange(group.size) for name, group in network.groups.items()}
        _, prices = measure(self, network, jax.device_get(state.masks))
        splits = self._splits(keeps)
        return Run(0, batch, in_use, chunk, network, keeps, state, prices, splits)

    def resume(self, checkpoint: Checkpoint) -> Run:
        """The run that `host_part` and its state were saved from."""
        host = checkpoint.host
        keeps = {name: np.asarray(kept, np.int64) for name, kept in host["keeps"].items()}
        network, state = self._network(host), checkpoint.state
        self.budget.remember(network, host["looks"])
        _, prices = measure(self, network, jax.device_get(state.masks))
        return Run(
            epoch=checkpoint.epoch,
            batch=host["batch"],
            batch_in_use=host["batch_in_use"],
            chunk=host["chunk"],
            network=network,
            keeps=keeps,
            state=state,
            prices=prices,
            splits=self._splits(keeps),
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

    def _splits(self, keeps: Keeps) -> dict[str, Split]:
        data = self.dataset
        arrays = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
        if len(data.y_validation):
            arrays["validation"] = (data.x_validation, data.y_validation)

        def ready(images, labels):
            inputs = images.reshape(len(images), *self.whole.spec.input_shape)  # flat for the MLP
            return Split(jnp.asarray(self.whole.cut_inputs(inputs, keeps)), jnp.asarray(labels))

        return {name: ready(*pair) for name, pair in arrays.items()}


def advance(trainer: Trainer, run: Run) -> tuple[Run, Record]:
    """One epoch.

    Args:
      trainer: the run's fixed part.
      run: where it stands; its arrays are consumed.

    Returns:
      Where it stands now, and what metrics.jsonl says of the epoch.

    Raises:
      Diverged: the loss is no longer a number.
    """
    config, programs = trainer.config, trainer.programs
    began, compiling_before = time.perf_counter(), programs.seconds
    epoch, batch = run.epoch + 1, run.batch_in_use
    steps = trainer.examples // batch

    # Train: one program, whatever the number of steps.
    spent = {"training": trainer.budget.training_bytes(run.network, batch)}
    trainer.budget.check("a training step", spent["training"])
    state, tally = train_epoch(trainer, run, batch, epoch, steps)
    if not math.isfinite(tally.loss):
        raise Diverged(epoch)

    # Observe and prune: exact and at once, by masks.
    observations = steps * batch if config.gates.per_example else steps
    rates = activation.rates(tally.counts, observations)
    masks = jax.device_get(state.masks)
    if config.prunes:
        masks = activation.keep_active(rates, masks, config.pruning.gamma)
        state = state._replace(masks=jax.device_put(masks))
    parameters, prices = measure(trainer, run.network, masks)

    # Resize: smaller arrays, once enough of them is dead.
    network, keeps, splits = run.network, run.keeps, run.splits
    materialised = _leaf_count(state.variables["params"])
    if compiling.worth_resizing(parameters, materialised, config.compiling.shrink):
        local = {name: np.flatnonzero(mask) for name, mask in masks.items()}
        network, state = resize(network, state, trainer.tx, local)
        keeps = {name: keeps[name][kept] for name, kept in local.items()}
        if "input" in keeps and keeps["input"].size < run.keeps["input"].size:
            splits = trainer._splits(keeps)
        programs.clear()
        parameters, prices = measure(trainer, network, jax.device_get(state.masks))

    # Evaluate the network that is left, with its gates at their deterministic values.
    chunk = trainer.budget.chunk(network, run.chunk)
    results = {}
    for name in splits.keys() - {"train"}:
        spent[name] = trainer.budget.evaluation_bytes(network, chunk, name)
        trainer.budget.check(f"evaluation on {name}", spent[name])
        results[name] = evaluate(trainer, network, state, splits[name], name, chunk)
    test = results["test"]
    if not math.isfinite(test["cross_entropy"]):  # the last step of all went wrong
        raise Diverged(epoch)

    # Choose the batch from what the epoch's gradients were like and what the budget leaves.
    means = jax.device_get(state.means)
    grad_variance = max(0.0, float(means.grad_variance / means.weight))
    smoothed = means.loss if config.batch.loss == "total" else means.cross_entropy
    smoothed = max(0.0, float(smoothed / means.weight))
    room = trainer.room(parameters)
    wanted = trainer.controller.update(run.batch, grad_variance, smoothed, room)
    next_batch, next_in_use = trainer.fit(network, wanted, batch)

    peak = max(map(metering.total, spent.values())) / 1024
    memory_kib = peak if trainer.by_xla else trainer.meter.memory_kib(parameters, batch)
    device_peak = metering.device_peak()
    best = min(run.best, (test["error"], epoch))
    compile_seconds = programs.seconds - compiling_before
    record = {
        "epoch": epoch,
        "train_loss": tally.loss / steps,
        "cross_entropy": tally.cross_entropy / steps,
        "penalty": tally.penalty / steps,
        "train_error": 100 * tally.wrong / (steps * batch),
        "test_error": test["error"],
        "test_cross_entropy": test["cross_entropy"],
        "units": {name: int(masks[name].sum()) for name in network.groups},
        "active": {name: float(rates[name].sum()) for name in network.groups},
        "parameters": parameters,
        "materialised": _leaf_count(state.variables["params"]),
        "batch_size": batch,
        "wanted_batch": wanted,
        "next_batch": next_batch,
        "steps": steps,
        "grad_variance": grad_variance,
        "smoothed_loss": smoothed,
        "variance_ratio": grad_variance / smoothed if smoothed else 0.0,
        "model_kib": trainer.meter.model_kib(parameters),
        "memory_kib": memory_kib,
        "allocated_kib": peak,
        "allocated": spent,
        "savings": list(trainer.budget.used.names),
        "device_peak_kib": None if device_peak is None else device_peak / 1024,
        "budget_kib": None if trainer.budget_bytes is None else trainer.budget_bytes / 1024,
        "seconds": time.perf_counter() - began - compile_seconds,
        "compile_seconds": compile_seconds,
        "compilations": programs.compilations,
    }
    if "validation" in results:
        record["validation_error"] = results["validation"]["error"]
    now = Run(
        epoch=epoch,
        batch=next_batch,
        batch_in_use=next_in_use,
        chunk=chunk,
        network=network,
        keeps=keeps,
        state=state,
        prices=prices,
        splits=splits,
        memory_kib=(*run.memory_kib, memory_kib),
        best=best,
    )
    return now, record


def host_part(run: Run, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint needs beside the arrays, as JSON holds it."""
    return {
        "batch": run.batch,
        "batch_in_use": run.batch_in_use,
        "chunk": run.chunk,
        "looks": trainer.budget.looks(run.network),
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


def train_epoch(trainer: Trainer, run: Run, batch: int, epoch: int, steps: int):
    """The state after an epoch, and its tally on the host."""
    split = run.splits["train"]
    order = trainer.order(np.int32(epoch))
    arguments = (run.state, split.images, split.labels, order, run.prices, np.int32(steps))
    program = trainer.budget.epoch_program(run.network, batch)
    state, tally = program(*arguments)
    return state, jax.tree.map(lambda leaf: leaf.item() if leaf.ndim == 0 else leaf,
                               jax.device_get(tally))  # fmt: skip


def measure(trainer: Trainer, network: Network, masks: Mapping[str, Any]) -> tuple[int, Any]:
    """What is left: parameters in number, and the fan-out of every gate, {group: f32[units]}."""

    def count(alive):
        prices = fan_out(network.groups, alive)
        prices = {name: price.astype(jnp.float32) for name, price in prices.items()}
        return parameter_count(network.groups, alive), prices

    program = trainer.programs.get("counting", network.spec, lambda: jax.jit(count), masks)
    parameters, prices = program(masks)
    return round(float(parameters)), prices


def size_of(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Units by group, parameters and KiB of the network that a run has come to."""
    masks = jax.device_get(run.state.masks)
    parameters, _ = measure(trainer, run.network, masks)
    return {
        "units": {name: int(masks[name].sum()) for name in run.network.groups},
        "parameters": parameters,
        "model_kib": trainer.meter.model_kib(parameters),
    }


def evaluate(
    trainer: Trainer,
    network: Network,
    state: TrainState,
    split: Split,
    name: str,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Error in percent, mean cross-entropy and confusion matrix (labels by row) on a split."""
    arguments = (state.variables, state.gates, state.masks, split.images, split.labels)
    program = trainer.budget.evaluation_program(network, chunk, name)
    confusion, loss = jax.device_get(program(*arguments))
    examples = len(split.labels)
    return {
        "error": 100 * (examples - int(np.trace(confusion))) / examples,
        "cross_entropy": float(loss) / examples,
        "confusion": confusion,
    }


def resize(
    network: Network, state: TrainState, tx: Any, keeps: Keeps
) -> tuple[Network, TrainState]:
    """Network and state with the arrays of the surviving units only.

    Args:
      network, state: before.
      tx: the optimizer.
      keeps: survivors, counted in the arrays as they are now.
    """
    groups = network.groups
    for name, group in network.groups.items():
        groups = groups.tie(f"gates/{name}", 0, name, (group.size,))
        groups = groups.tie(f"masks/{name}", 0, name, (group.size,))
    # The optimizer knows params and gates, which are a part of what the groups speak of.
    cuts = plan(groups, keeps)
    trained = {"params": state.variables["params"], "gates": state.gates}
    trimmers = jax.tree_util.tree_map_with_path(
        lambda path, _: functools.partial(cut_leaf, cuts=cuts.get(path_name(path), ())), trained
    )
    opt_state = map_like_params(tx, state.opt_state, trained, trimmers)
    whole = {**state.variables, "gates": state.gates, "masks": state.masks}
    smaller = cut(whole, groups, keeps)
    gates, masks = smaller.pop("gates"), smaller.pop("masks")
    network = network.shrunk(smaller["params"], keeps)
    state = state._replace(variables=smaller, gates=gates, masks=masks, opt_state=opt_state)
    return network, state


def _leaf_count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
