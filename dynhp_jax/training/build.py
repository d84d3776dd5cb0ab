"""What a config names: its data set and its network, whole."""

import dataclasses

from dynhp_jax import data
from dynhp_jax.common import machine
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.models import registry
from dynhp_jax.models.spec import Spec
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network, whole_network


def dataset_of(config: Config) -> Dataset:
    """The data that a config names; the first `data.examples` of the training set, if not all.

    Raises:
      ConfigError: `data.examples` is more than there are.
      UserError: the data cannot be read; see `data.load`.
    """
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


def network_of(config: Config, dataset: Dataset) -> Network:
    """The whole network for the examples of a data set, with the groups that the run gates.

    Raises:
      UserError: the model takes no such sizes, or its variables alone take more than the memory.
      ConfigError: `pruning.groups` has a name that is no group, or of one that cannot be cut.
    """
    spec = spec_of(config, dataset)
    names = config.pruning.groups if config.masked else None
    network = whole_network(spec, names, config.gates.inputs)
    return dataclasses.replace(network, example_shape=dataset.example_shape)
