"""`fit`: trains anybody's model on anybody's data, and prunes it while it trains."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from dynhp_jax.common import byte_sizes, paths, processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.data.task_data import TaskData, own_data
from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import UnitKeeps, UnitMasks
from dynhp_jax.tasks.task import task_of
from dynhp_jax.training import build, first_look
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.extension import Extension, has_variables
from dynhp_jax.training.model_sources import source_of
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import agreement, loop, shape_plans
from dynhp_jax.training.run.epoch_results import Record
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import devices
from dynhp_jax.writers import registry
from dynhp_jax.writers.writer import Started, Writers


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The network that a run ended with, and how it came to it.

    Attributes:
      apply: `apply(variables, inputs) -> outputs`, for evaluation, with the gates inside; its
        inputs are whole examples, also where inputs were pruned.
      variables: of the smaller network.
      groups: of the network before it was pruned.
      keeps: {group: sorted indices}, which of its units are left.
      records: of every epoch, as metrics.jsonl has them.
      whole, network: the model's sizes and its groups, before and after pruning; without gates.
      gates: {group: f32[units]}, what the gates are in evaluation, of the units that are left.
    """

    apply: Callable[[Any, Any], Any]
    variables: dict[str, Any]
    groups: Groups
    keeps: UnitKeeps
    records: list[Record]
    whole: Network
    network: Network
    gates: dict[str, jax.Array]


def fit(
    model: Any,
    variables: Any = None,
    *,
    train: Any,
    test: Any,
    validation: Any = None,
    loss: str | Callable[[Any, Any], jax.Array] = "cross_entropy",
    metrics: Mapping[str, Any] | None = None,
    best: str = "",
    tx: optax.GradientTransformation | None = None,
    config: Config | None = None,
    criterion: Criterion | None = None,
    workdir: str | os.PathLike | None = None,
    callbacks: Iterable[Callable[[Record], None]] = (),
    extension: Extension | None = None,
    statistics: str = "left",
) -> Result:
    """Trains a model and prunes it for good while it trains.

    Args:
      model: a function `apply(variables, inputs) -> outputs`, a Linen module, or an NNX module; see
        `model_sources.source_of`.
      variables: at the start; None for a Linen module that is to be initialised here, and for an
        NNX module, which holds them.
      train, test, validation: (inputs, targets), arrays or pytrees of arrays [examples, ...]; or,
        for data larger than memory, a source whose `__len__` and `__getitem__` give one such pair
        for every example, or an iterable of batches; see `data.streamed`. `validation` may be left
        out.
      loss: `loss(outputs, targets) -> [batch]`, or a name of `losses.LOSSES`.
      metrics: {name: function (outputs, targets) -> [batch], `metrics.Metric` or a name}; None for
        what is usual with the loss.
      best: the metric by which the best epoch is chosen; '' for the first one.
      tx: the optimizer of the parameters; None for the one that the config names.
      config: of the run; its sections `model` and `data` say nothing of a model and data of your
        own, but for `data.noise`, `shift`, `flip` and `resident`.
      criterion: an object that the method 'scores' prunes by; None for the one that the config
        names.
      workdir: a directory for the run: its config, records, checkpoints, figures and summary, as
        `experiments.train` writes them. The same call goes on from what is there. None for none.
      callbacks: each is called with the record of every epoch: functions, or objects as
        `writers.Writer` says, such as `writers.TensorBoard(folder)` or `writers.Screen()`. What one
        raises ends the run and passes through; with a workdir the same call goes on from the newest
        checkpoint. Of several processes only process 0 calls them.
      extension: the parts of the step that a method replaces, see `training.extension`; None for
        those that the config names.
      statistics: 'whole' also prunes the width under Flax's LayerNorm and GroupNorm, in which units
        that are gone then count as zeros; 'left' does not. See `find_groups`.

    Returns:
      The `Result`.

    Raises:
      UserError, ConfigError: before the first epoch, for what cannot be trained; or where training
        diverges.
    """
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise UserError(f"config is a {type(config).__name__}; allowed: dp.Config(...), or None")
    if tx is not None:
        first_look.check_optimizer(tx, "tx")
    task = task_of(loss, metrics, best)
    dataset = own_data(train, test, validation, byte_sizes.parse_bytes(config.data.resident))
    few = dataset.splits["train"].first(2).inputs
    source = source_of(model, variables, few, config.seed)
    source = dataclasses.replace(source, statistics=statistics)
    whole = build.own_network(config, source, task, dataset)
    agreement.check_inputs(config, dataset.splits)
    program_cache.use_cache(config.compiling.cache_dir)
    folder = None if workdir is None else paths.given(workdir, "workdir")
    several = [*callbacks, *registry.named(config.records.writers, folder, config.origin)]
    with Writers(several if processes.leads() else ()) as writers:
        if folder is not None:
            return _fit_in(folder, writers, config, dataset, criterion, whole, tx, extension)
        programs = Programs(tell=writers.compiling)
        trainer = Trainer(config, dataset, programs, criterion, whole, tx, extension=extension)
        trainer.announce(new=True)
        run, records = trainer.start(), []
        agreement.check_start(run)
        writers.begin(Started([], config.epochs, task))
        while run.epoch < config.epochs:
            with processes.together(f"epoch {run.epoch + 1}") as meeting:
                run, record = loop.advance(trainer, run)
                records.append(record)
                writers(record)
                meeting.said["decided"] = agreement.decided(trainer, run, record)
            meeting.check_same("decided")
    return result_of(trainer, run, records)


def _fit_in(
    folder: Path,
    writers: Writers,
    config: Config,
    dataset: TaskData,
    criterion: Criterion | None,
    whole: Network,
    tx: optax.GradientTransformation | None,
    extension: Extension | None,
) -> Result:
    """The same in a directory, from what is there."""
    from dynhp_jax.training.files import going_on  # loads orbax
    from dynhp_jax.training.files.followed import claimed

    with claimed(folder, config) as workdir:
        programs = Programs(known=workdir.trials, tell=writers.compiling)
        made_of = build.digest(whole, dataset, extension)
        trainer = Trainer(config, dataset, programs, criterion, whole, tx, made_of, extension)
        run = going_on.start(trainer, workdir)
        run, records = going_on.train(trainer, run, workdir, writers)
        going_on.finish(trainer, run, workdir, records)
    return result_of(trainer, run, records)


def result_of(trainer: Trainer, run: Run, records: list[Record]) -> Result:
    """The network that a run has come to, without the units that are only masked."""
    state = devices.local(run.state)
    left = UnitMasks(jax.device_get(state.masks)).keeps()
    network, state = shape_plans.resize(run.network, state, trainer.tx, left)
    keeps = run.keeps.then(left)
    variables, gates, _, own = state.evaluated
    z = {name: hard_concrete.mean(value) for name, value in gates.items()}
    return Result(
        _apply(trainer.whole, network, z, own, keeps),
        network.extension.evaluated(variables, own),
        trainer.whole.groups,
        keeps,
        records,
        trainer.whole,
        network,
        z,
    )


def _apply(whole: Network, network: Network, z: Mapping, own: Any, keeps: Mapping) -> Callable:
    """`apply(variables, inputs)` of a network with its gates, for whole examples."""
    alone = gated(network.evaluate, network.groups)
    inside = network.extension.evaluation(alone)

    def apply(variables: Any, inputs: Any) -> Any:
        inputs = whole.cut_inputs(inputs, keeps)
        if has_variables(network.extension):
            return alone(variables, z, inputs)
        return inside(variables, own, z, inputs)

    return apply
