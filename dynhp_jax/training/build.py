"""What a config names: its data, its task, its network, whole, and its optimizer."""

import dataclasses
import hashlib
from collections.abc import Mapping

import jax
import numpy as np
import optax

from dynhp_jax import data
from dynhp_jax.common import machine, own_code
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.pairs import ArrayData, array_data
from dynhp_jax.models import registry
from dynhp_jax.models.spec import Spec
from dynhp_jax.structure.group import INPUT
from dynhp_jax.structure.groups import Groups
from dynhp_jax.tasks import task
from dynhp_jax.tasks.task import Task
from dynhp_jax.training import first_look
from dynhp_jax.training.config import Config
from dynhp_jax.training.extension import PLAIN, Extension
from dynhp_jax.training.network import Model, Network, example_of, whole_network
from dynhp_jax.training.own_model import OwnModel, Source, source_of


def dataset_of(config: Config) -> Dataset | ArrayData:
    """The data that a config names; the first `data.examples` of the training set, if not all.

    Raises:
      ConfigError: `data.examples` is more than there are.
      UserError: the data cannot be read; see `data.load`.
    """
    if own_code.is_own(config.data.name):
        return _own_data(config)
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


def spec_of(config: Config, dataset: Dataset, copies: int = 1) -> Spec:
    """The sizes of the network for the examples of a data set.

    Args:
      config: names it.
      dataset: has the examples.
      copies: how many of its variables are to be in memory at once.

    Raises:
      UserError: the model takes no such sizes, or the memory cannot hold the variables.
    """
    model = config.model
    options = {
        "hidden": model.hidden or None,
        "width": model.width or None,
        "depth": model.depth or None,
    }
    spec = registry.build(model.name, dataset.example_shape, dataset.num_classes, **options)
    machine.check_holds(
        [spec.shapes()] * copies,
        "the variables of this network" + " with their moments and means" * (copies > 1),
        "take a smaller config.model.hidden, width or depth",
    )
    return spec


def task_of(config: Config, dataset: Dataset | ArrayData) -> Task:
    """What a run is trained and judged by.

    Raises:
      UserError: the loss cannot be imported, or what is best is no metric.
    """
    loss = config.loss.name
    if own_code.is_own(loss):
        loss = own_code.value(loss, "loss", config.origin, _remedy("loss.name", "loss"))
    metrics = {name: name for name in config.loss.metrics} or None
    classes = dataset.num_classes if config.loss.name == "cross_entropy" else 0
    return task.task_of(loss, metrics, config.loss.best, classes)


def network_of(config: Config, dataset: Dataset | ArrayData) -> Network:
    """The whole network for the examples of a data set, with the groups that the run gates.

    Raises:
      UserError: the model takes no such sizes, cannot be imported, or its variables alone take more
        than the memory.
      ConfigError: `pruning.groups` has a name that is no group, or of one that cannot be cut.
    """
    if own_code.is_own(config.model.name):
        found = own_code.value(
            config.model.name, "model", config.origin, _remedy("model.name", "first argument")
        )
        model, variables = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        inputs = dataset.splits["train"].inputs
        source = source_of(model, variables, inputs, config.seed)
        return own_network(config, source, task_of(config, dataset), dataset)
    aim, inputs = task_of(config, dataset), config.gates.inputs
    return _network(config, spec_of(config, dataset), aim, dataset, inputs)


def own_network(config: Config, source: Source, aim: Task, dataset: Dataset | ArrayData) -> Network:
    """The whole network of a model of one's own; see `network_of`.

    Its inputs are gated where they are units along one axis. Rows, columns and channels of images
    that a model flattens are not, unless `pruning.groups` names them.
    """
    outputs = first_look.check_model(source)
    first_look.check_task(aim, outputs, example_of(dataset.splits["train"].targets))
    for name, pairs in dataset.splits.items():
        first_look.check_labels(aim, outputs, name, pairs)
    with own_code.guarded("the model"):  # which may hold what cannot be analysed
        found = source.groups
    inputs = sum(group.kind == INPUT for group in found.values()) == 1 and config.gates.inputs
    return _network(config, OwnModel(source), aim, dataset, inputs, found)


def _network(
    config: Config,
    model: Model,
    aim: Task,
    dataset: Dataset | ArrayData,
    inputs: bool,
    found: Groups | None = None,
) -> Network:
    """The network of a model, with the groups that the run gates; see `whole_network`."""
    names = config.pruning.groups if config.masked else None
    target = example_of(dataset.splits["train"].targets)
    whole = whole_network(model, names, inputs, aim, target, found)
    return dataclasses.replace(whole, example_shape=dataset.example_shape)


def optimizer_of(config: Config) -> optax.GradientTransformation | None:
    """The optimizer of one's own that a config names; None for the library's.

    Raises:
      UserError: it cannot be imported, or is none.
    """
    name = config.optimizer.name
    if not own_code.is_own(name):
        return None
    found = own_code.value(name, "optimizer", config.origin, _remedy("optimizer.name", "tx"))
    hint = "; to have it made, name its arguments: module:make(rate=0.01)"
    first_look.check_optimizer(found, f"optimizer {name!r}", hint)
    return found


def extension_of(config: Config) -> Extension:
    """The extension that a config names, or the engine's own parts.

    Raises:
      UserError: it cannot be imported, or is none.
    """
    name = config.extension
    if not name:
        return PLAIN
    if not own_code.is_own(name):
        raise ConfigError("extension", name, "module:Class of your own, with options or without")
    return own_code.value(name, "extension", config.origin, _remedy("extension", "extension"))


def digest(whole: Network, dataset: Dataset | ArrayData, extension: Extension | None = None) -> str:
    """Tells models, data, tasks and extensions apart, where no config does.

    By the shapes of the variables, all arrays of the data, the names of the loss and the metrics,
    and the options of an extension: what functions compute no digest can tell.
    """
    aim, variables = whole.task, jax.tree.leaves_with_path(whole.model.shapes())
    shapes = [(path, leaf.shape) for path, leaf in variables]
    known = (str(shapes), aim.called, list(aim.metrics), aim.best)
    found = hashlib.sha256(repr(known).encode())
    if extension is not None:
        found.update(repr(extension).encode())
    for name, pairs in sorted(dataset.splits.items()):
        for leaf in jax.tree.leaves((pairs.inputs, pairs.targets)):
            found.update(f"{name}{leaf.dtype}{leaf.shape}".encode())
            found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()


def _own_data(config: Config) -> ArrayData:
    """Data of one's own: pairs (inputs, targets) by the names of their splits."""
    name = config.data.name
    found = own_code.value(name, "data", config.origin, _remedy("data.name", "train, test"))
    if callable(found):
        with own_code.guarded(f"data {name!r}"):
            found = found()
    splits = dict(found) if isinstance(found, Mapping) else {}
    if not {"train", "test"} <= splits.keys() <= {"train", "test", "validation"}:
        raise UserError(
            f"data {name!r} gives a {type(found).__name__}; allowed: a dictionary with 'train',"
            " 'test' and maybe 'validation', each (inputs, targets)"
        )
    dataset = array_data(splits["train"], splits["test"], splits.get("validation"))
    if config.data.validation and "validation" not in splits:
        allowed = f"0: hold examples out in {name!r}, which may give 'validation'"
        raise ConfigError("data.validation", config.data.validation, allowed)
    count, there = config.data.examples, len(dataset.splits["train"])
    if count > there:
        raise ConfigError("data.examples", count, f"0 (all) to {there} with {name}")
    if count:
        first = {**dataset.splits, "train": dataset.splits["train"].first(count)}
        dataset = dataclasses.replace(dataset, splits=first)
    return dataclasses.replace(dataset, name=name)


def _remedy(field: str, argument: str) -> str:
    return f"name it yourself, by --config.{field} or, in Python, by dp.fit ({argument})"
