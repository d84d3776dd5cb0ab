"""What a config names: its data, its task, its network, whole, and its optimizer."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax import data
from dynhp_jax.common import byte_sizes, machine, own_code
from dynhp_jax.common.errors import ConfigError, UserError, of_fields
from dynhp_jax.data import adapted
from dynhp_jax.data.loading import Dataset
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.streamed import Streamed
from dynhp_jax.data.task_data import TaskData, own_data
from dynhp_jax.models import registry, weights
from dynhp_jax.models.spec import Spec
from dynhp_jax.structure.group import INPUT
from dynhp_jax.structure.groups import Groups
from dynhp_jax.tasks import task
from dynhp_jax.tasks.task import Task
from dynhp_jax.training import first_look
from dynhp_jax.training.config import Config
from dynhp_jax.training.extension import Extension
from dynhp_jax.training.model_sources import source_of
from dynhp_jax.training.network import Model, Network, batch_of, whole_network
from dynhp_jax.training.own_model import OwnModel, Source


def dataset_of(config: Config) -> Dataset | TaskData:
    """The data that a config names; the first `data.examples` of the training set, if not all.

    A `Dataset` where they are images and their classes.

    Raises:
      ConfigError: `data.examples` is more than there are.
      UserError: the data cannot be read; see `data.load`.
    """
    if own_code.is_own(config.data.name):
        return _own_data(config)
    arguments = ("name", "validation", "classes", "size", "channels")
    with of_fields(directory="data.dir", **{each: f"data.{each}" for each in arguments}):
        return _published(config)


def _published(config: Config) -> Dataset | TaskData:
    dataset = data.load(
        config.data.name,
        directory=config.data.dir or None,
        cache=config.data.cache_dir or None,
        validation=config.data.validation,
    )
    if config.data.classes:
        dataset = adapted.of_classes(_with_classes(config, dataset, "classes"), config.data.classes)
    dataset = _first_examples(config, dataset)
    for field in ("size", "channels"):
        if getattr(config.data, field):
            images = _with_classes(config, dataset, field)
            return adapted.in_size(images, config.data.size, config.data.channels)
    return dataset


def _with_classes(config: Config, dataset: Dataset | TaskData, field: str) -> Dataset:
    """The same; raises ConfigError for what this field of `data` does not go with."""
    if not isinstance(dataset, Dataset):
        asked, allowed = getattr(config.data, field), "its default: these are no classes of images"
        raise ConfigError(f"data.{field}", asked, allowed)
    return dataset


def classes_of(config: Config) -> Dataset:
    """The same, where it has to be images and their classes.

    Raises:
      ConfigError: it is something else.
    """
    dataset = dataset_of(config)
    if not isinstance(dataset, Dataset):
        allowed = "here: images and their classes, such as 'digits', 'mnist' or 'cifar10'"
        raise ConfigError("data.name", config.data.name, allowed)
    return dataset


def _first_examples(config: Config, dataset: Dataset | TaskData) -> Dataset | TaskData:
    """With no more training examples than asked for."""
    count, there = config.data.examples, len(dataset.splits["train"])
    if count > there:
        raise ConfigError("data.examples", count, f"0 (all) to {there} with {config.data.name}")
    if not count:
        return dataset
    if isinstance(dataset, Dataset):
        images, labels = dataset.x_train[:count], dataset.y_train[:count]
        return dataclasses.replace(dataset, x_train=images, y_train=labels)
    first = {**dataset.splits, "train": dataset.splits["train"].limited(count)}
    return dataclasses.replace(dataset, splits=first)


def spec_of(config: Config, dataset: Dataset | TaskData, copies: int = 1) -> Spec:
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
    example = dataset.splits["train"].example.inputs
    if not hasattr(example, "dtype"):
        allowed = "a model of your own for inputs of several arrays"
        raise ConfigError("model.name", model.name, allowed)
    tokens = jnp.issubdtype(example.dtype, jnp.integer)
    outputs = _outputs(config, dataset)
    spec = registry.build(model.name, example.shape, outputs, tokens=tokens, **options)
    check_holds(spec, copies)
    return spec


def check_holds(model: Model, copies: int) -> None:
    """Raises UserError if the memory cannot hold the variables of a model so often."""
    machine.check_holds(
        [model.shapes()] * copies,
        "the variables of this network" + " with their moments and means" * (copies > 1),
        "take a smaller config.model.hidden, width or depth",
    )


def _outputs(config: Config, dataset: Dataset | TaskData) -> int:
    """How many outputs a network has for each example, or each position of one."""
    known = dataset.num_classes or getattr(dataset, "outputs", 0)
    if known:
        return known
    train = dataset.splits["train"]
    target = train.example.targets
    shipped = config.loss.name in task.losses.LOSSES and hasattr(target, "shape")
    if shipped and config.loss.name not in ("cross_entropy", "masked_cross_entropy"):
        return target.shape[-1] if target.shape else 1
    if shipped and isinstance(train, Pairs):
        return max(int(pairs.targets.max()) for pairs in dataset.splits.values()) + 1
    allowed = "a model of your own, which knows its outputs: these data and this loss do not say"
    raise ConfigError("model.name", config.model.name, allowed)


def task_of(config: Config, dataset: Dataset | TaskData) -> Task:
    """What a run is trained and judged by.

    Raises:
      UserError: the loss cannot be imported, or what is best is no metric.
    """
    loss = config.loss.name
    if own_code.is_own(loss):
        loss = own_code.value(loss, "loss", config.origin, _remedy("loss.name", "loss"))
    metrics = dict(_metric(config, name) for name in config.loss.metrics) or None
    classes = dataset.num_classes if config.loss.name == "cross_entropy" else 0
    return task.task_of(loss, metrics, config.loss.best, classes)


def _metric(config: Config, name: str) -> tuple[str, Any]:
    """What records call a metric that a config names, and the metric."""
    if not own_code.is_own(name):
        return name, name
    remedy = _remedy("loss.metrics", "metrics")
    return own_code.object_name(name), own_code.value(name, "metric", config.origin, remedy)


def network_of(config: Config, dataset: Dataset | TaskData) -> Network:
    """The whole network for the examples of a data set, with the groups that the run gates.

    Raises:
      UserError: the model takes no such sizes, cannot be imported, or its variables alone take more
        than the memory.
      ConfigError: `pruning.groups` has a name that is no group, or of one that cannot be cut.
    """
    if own_code.is_own(config.model.name):
        if config.start.weights:
            allowed = "'' with a model of your own, which comes with its variables"
            raise ConfigError("start.weights", config.start.weights, allowed)
        found = own_code.value(
            config.model.name, "model", config.origin, _remedy("model.name", "first argument")
        )
        model, variables = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        inputs = dataset.splits["train"].first(2).inputs
        source = source_of(model, variables, inputs, config.seed)
        return own_network(config, source, task_of(config, dataset), dataset)
    aim, spec = task_of(config, dataset), spec_of(config, dataset)
    few = first_look.FEW
    outputs = jax.eval_shape(spec.evaluate, spec.shapes(), batch_of(spec.example, few))
    first_look.check_task(aim, outputs, dataset.splits["train"].example.targets)
    found = _network(config, spec, aim, dataset, config.gates.inputs)
    file = config.start.weights
    if not file:
        return found
    given = weights.starting(spec, weights.read(file), config.seed, repr(file))
    return dataclasses.replace(found, pretrained=given)


def own_network(config: Config, source: Source, aim: Task, dataset: Dataset | TaskData) -> Network:
    """The whole network of a model of one's own; see `network_of`.

    Its inputs are gated where they are units along one axis. Rows, columns and channels of images
    that a model flattens are not, unless `pruning.groups` names them.
    """
    outputs = first_look.check_model(source)
    first_look.check_task(aim, outputs, dataset.splits["train"].example.targets)
    for name, pairs in dataset.splits.items():
        if not isinstance(pairs, Streamed):  # those are looked at when they are read
            first_look.check_labels(aim, outputs, name, pairs.targets)
    with own_code.guarded("the model"):  # which may hold what cannot be analysed
        found = source.groups
    inputs = sum(group.kind == INPUT for group in found.values()) == 1 and config.gates.inputs
    return _network(config, OwnModel(source), aim, dataset, inputs, found)


def _network(
    config: Config,
    model: Model,
    aim: Task,
    dataset: Dataset | TaskData,
    inputs: bool,
    found: Groups | None = None,
) -> Network:
    """The network of a model, with the groups that the run gates; see `whole_network`."""
    names = config.pruning.groups if config.masked else None
    target = dataset.splits["train"].example.targets
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


def digest(whole: Network, dataset: Dataset | TaskData, extension: Extension | None = None) -> str:
    """Tells models, data, tasks and extensions apart, where no config does.

    By the shapes of the variables, the weights that a network starts from, all arrays of the data
    (of what is read when it is needed: a few examples), the names of the loss and the metrics, the
    statistics of normalisations and the options of an extension: what functions compute no digest
    can tell.
    """
    aim, variables = whole.task, jax.tree.leaves_with_path(whole.model.shapes())
    shapes = [(path, leaf.shape) for path, leaf in variables]
    known = (str(shapes), aim.called, list(aim.metrics), aim.best)
    found = hashlib.sha256(repr(known).encode())
    if extension is not None:
        found.update(repr(extension).encode())
    if isinstance(whole.model, OwnModel) and whole.model.source.statistics != "left":
        found.update(whole.model.source.statistics.encode())
    for leaf in jax.tree.leaves(whole.pretrained):
        found.update(np.ascontiguousarray(leaf).data)
    for name, pairs in sorted(dataset.splits.items()):
        if isinstance(pairs, Streamed):
            found.update(f"{name}: {len(pairs)}".encode())
        for leaf in pairs.sample().leaves:
            found.update(f"{name}{leaf.dtype}{leaf.shape}".encode())
            found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()


def _own_data(config: Config) -> TaskData:
    """Data of one's own, by the names of their splits; see `own_data`."""
    name = config.data.name
    found = own_code.value(name, "data", config.origin, _remedy("data.name", "train, test"))
    if callable(found):
        with own_code.guarded(f"data {name!r}"):
            found = found()
    splits = dict(found) if isinstance(found, Mapping) else {}
    if not {"train", "test"} <= splits.keys() <= {"train", "test", "validation"}:
        raise UserError(
            f"data {name!r} gives a {type(found).__name__}; allowed: a dictionary with 'train',"
            " 'test' and maybe 'validation', each (inputs, targets) or a source of such pairs"
        )
    resident = byte_sizes.parse_bytes(config.data.resident)
    dataset = own_data(splits["train"], splits["test"], splits.get("validation"), resident)
    if config.data.validation and "validation" not in splits:
        allowed = f"0: hold examples out in {name!r}, which may give 'validation'"
        raise ConfigError("data.validation", config.data.validation, allowed)
    return _first_examples(config, dataclasses.replace(dataset, name=name))


def _remedy(field: str, argument: str) -> str:
    return f"name it yourself, by --config.{field} or, in Python, by dp.fit ({argument})"
