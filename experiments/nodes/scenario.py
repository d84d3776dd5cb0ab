"""From the config of a decentralised run to what `dynhp_jax.decentralised.train` takes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax import decentralised
from dynhp_jax.common import own_code
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.decentralised import centralities, graphs, placement, scenarios
from dynhp_jax.training import build
from dynhp_jax.training.config import Config
from dynhp_jax.training.own_model import Functions
from experiments.nodes import pruning
from experiments.nodes.settings import Nodes


@dataclasses.dataclass(frozen=True, eq=False)
class Scenario:
    """A run before it is trained.

    Attributes:
      graph: bool[nodes, nodes].
      parts: of the training examples.
      mixing: f64[nodes, nodes].
      gain: of the initial weights; None where they are shared.
      train: `decentralised.train`, or `train_pruned` for nodes that prune themselves.
      arguments: all that it takes but where it writes.
    """

    graph: np.ndarray
    parts: placement.Placement
    mixing: np.ndarray
    gain: float | None
    train: Callable[..., Any]
    arguments: dict[str, Any]


def scenario_of(config: Config, nodes: Nodes) -> Scenario:
    """Graph, data and model of a config.

    Raises:
      UserError: for what cannot be: a graph that stays in parts where a gain is asked for, more
        nodes than examples, a rule that there is not.
    """
    dataset = build.classes_of(config)
    graph = graph_of(nodes, config.seed)
    chosen = centralities.central(
        graph, math.ceil(nodes.central * nodes.count), nodes.by, nodes.lowest
    )
    parts = parts_of(nodes, dataset.y_train, graph, len(chosen), config.seed, dataset.num_classes)
    inputs, labels = _corrupted(config, nodes, dataset, parts, chosen)
    mixing = decentralised.mixing_matrix(
        graph, placement.sizes_of(parts) if nodes.weighted else None
    )
    gain = {"shared": None, "independent": 1.0}.get(nodes.start)
    if nodes.start == "gain":
        gain = decentralised.initialisation_gain(mixing)
    spec = build.spec_of(config, dataset, nodes.count)
    mean, deviation = 0.0, 1.0
    if nodes.normalise:
        clean = dataset.x_train  # so that bad data change no other input
        mean, deviation = float(clean.mean()), float(clean.std()) or 1.0

    def read(images: np.ndarray) -> np.ndarray:
        scaled = (images - np.float32(mean)) / np.float32(deviation)
        return scaled.reshape(len(scaled), *spec.input_shape)

    presence = scenarios.everybody(nodes.rounds, nodes.count)
    if nodes.drop != "none":
        happens = getattr(scenarios, nodes.drop)
        presence = happens(presence, chosen, nodes.drop_at, nodes.drop_until or None)
    arguments = {
        "model": Functions(spec.evaluate, spec.train, spec.draws),
        "variables": jax.jit(spec.init)(jax.random.key(config.seed)),
        "train": (read(inputs), labels),
        "test": (read(dataset.x_test), dataset.y_test),
        "parts": parts,
        "mixing": mixing,
        "rounds": nodes.rounds,
        "rule": decentralised.rule_of(nodes.rule, config.origin),
        "loss": _loss(config, nodes),
        "metrics": {"accuracy": "accuracy"},
        "tx": _optimizer(config, nodes),
        "batch": config.batch.size or 32,
        "local_epochs": nodes.local_epochs,
        "seed": config.seed,
        "gain": gain,
        "presence": presence,
        "judge_every": nodes.judge_every,
        "judged": nodes.judged,
        "restart_optimizer": nodes.restart,
        "at_once": None if nodes.at_once < 0 else nodes.at_once,
        "devices": config.devices,
    }
    train: Callable[..., Any] = decentralised.train
    if nodes.units != pruning.ALL:
        train, arguments = (
            decentralised.train_pruned,
            pruning.arguments_of(config, nodes, arguments),
        )
    return Scenario(graph, parts, mixing, gain, train, arguments)


def graph_of(nodes: Nodes, seed: int) -> np.ndarray:
    """bool[nodes, nodes]."""
    count = nodes.count
    if nodes.graph == "lattice":
        rows = max(k for k in range(1, math.isqrt(count) + 1) if count % k == 0)
        return graphs.lattice(rows, count // rows)
    if nodes.graph == "erdos_renyi":
        return graphs.erdos_renyi(count, nodes.degree, seed)
    if nodes.graph == "barabasi_albert":
        return graphs.barabasi_albert(count, max(1, round(nodes.degree / 2)), seed)
    if nodes.graph == "stochastic_block":
        parts = np.array_split(np.arange(count), nodes.communities)
        return graphs.stochastic_block(map(len, parts), nodes.inside, nodes.between, seed)
    return {"ring": graphs.ring, "star": graphs.star, "complete": graphs.complete}[nodes.graph](
        count
    )


def parts_of(
    nodes: Nodes, labels: np.ndarray, graph: np.ndarray, central: int, seed: int, classes: int
) -> placement.Placement:
    """The training examples of every node."""
    if nodes.placement in ("classes", "centrality") and nodes.classes > classes:
        raise ConfigError("nodes.classes", nodes.classes, f"1 to {classes}, as the data have")
    if nodes.placement == "zipf":
        return placement.zipf(labels, nodes.count, seed, nodes.exponent)
    if nodes.placement == "dirichlet":
        return placement.dirichlet(labels, nodes.count, seed, nodes.alpha)
    if nodes.placement == "classes":
        wanted = placement.some_classes(nodes.count, classes, nodes.classes, seed)
        return placement.by_classes(labels, wanted, seed)
    if nodes.placement == "centrality":
        rare = range(classes - nodes.classes, classes)
        return placement.by_centrality(labels, graph, seed, rare, central, nodes.by, nodes.lowest)
    return placement.iid(labels, nodes.count, seed, nodes.examples)


def _corrupted(
    config: Config, nodes: Nodes, dataset: Dataset, parts: placement.Placement, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The training images and labels, some of them bad."""
    inputs, labels = dataset.x_train, dataset.y_train
    if nodes.bad == "none":
        return inputs, labels
    where = chosen if nodes.bad_on == "central" else range(nodes.count)
    count = round(nodes.bad_share * sum(map(len, parts)))
    examples = scenarios.drawn_examples(parts, where, count, config.seed)
    if nodes.bad == "labels":
        classes = dataset.num_classes
        return inputs, scenarios.corrupted_labels(labels, examples, config.seed, classes)
    return scenarios.corrupted_pixels(inputs, examples, config.seed), labels


def _loss(config: Config, nodes: Nodes) -> Any:
    if nodes.teacher != "none":
        return decentralised.VirtualTeacher(form=nodes.teacher)
    return build.task_of(config, build.classes_of(config)).loss


def _optimizer(config: Config, nodes: Nodes) -> optax.GradientTransformation:
    if own_code.is_own(config.optimizer.name):
        return build.optimizer_of(config)
    rate = config.optimizer.learning_rate
    if config.optimizer.name == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, momentum=0.9 if config.optimizer.name == "momentum" else nodes.momentum)
