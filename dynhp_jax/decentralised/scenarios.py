"""What happens to nodes and data, as data: who is there in which round, and which examples are bad.

A `Presence` says of every round and node whether it exchanges weights and whether it trains. All of
it is input of the compiled program: churn compiles nothing.

>>> there = leave(everybody(rounds=4, nodes=3), [0], at=1, until=3)
>>> there.alive.astype(int).tolist()
[[1, 1, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1]]
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.placement import Placement


class Presence(NamedTuple):
    """Who is there.

    A node that is not alive keeps its weights and is nobody's neighbour; if it trains, it trains
    alone. One that is alive and does not train is a relay: it averages, and has no data.

    Attributes:
      alive: bool[rounds, nodes], whether it exchanges weights.
      trains: bool[rounds, nodes], whether it trains.
    """

    alive: np.ndarray
    trains: np.ndarray


def everybody(rounds: int, nodes: int) -> Presence:
    """All nodes in all rounds."""
    return Presence(np.ones((rounds, nodes), bool), np.ones((rounds, nodes), bool))


def leave(presence: Presence, nodes: Iterable[int], at: int, until: int | None = None) -> Presence:
    """Nodes go, with their data: they neither exchange nor train.

    Args:
      presence: before.
      nodes: who goes; see `centralities.central` for the most central ones.
      at: the first round without them, from 0.
      until: the round in which they are back, with the weights that they left with; None: never.
    """
    where = _where(presence, nodes, at, until)
    return Presence(*(np.where(where, False, each) for each in presence))


def isolate(
    presence: Presence, nodes: Iterable[int], at: int, until: int | None = None
) -> Presence:
    """Nodes lose all neighbours, and go on training alone; as `leave` otherwise."""
    where = _where(presence, nodes, at, until)
    return presence._replace(alive=np.where(where, False, presence.alive))


def lose_data(
    presence: Presence, nodes: Iterable[int], at: int, until: int | None = None
) -> Presence:
    """Nodes lose their data, and go on exchanging as relays; as `leave` otherwise."""
    where = _where(presence, nodes, at, until)
    return presence._replace(trains=np.where(where, False, presence.trains))


def drawn_examples(parts: Placement, nodes: Iterable[int], count: int, seed: int) -> np.ndarray:
    """Examples on some nodes, which are to be corrupted: sorted indices, spread evenly.

    Args:
      parts: of every node, from `placement`.
      nodes: that have them; one node for all on a single one.
      count: how many in all.
      seed: of the draw.

    Raises:
      UserError: the nodes do not have as many, each its share.
    """
    nodes, rng = [*nodes], np.random.default_rng(seed)
    if not nodes or count < 0:
        raise UserError(f"{count} examples of {len(nodes)} nodes; allowed: 0 or more, of 1 or more")
    found = []
    for number, node in enumerate(nodes):
        share = count // len(nodes) + (number < count % len(nodes))
        if share > len(parts[node]):
            raise UserError(
                f"node {node} has {len(parts[node])} examples, and {share} are to be corrupted;"
                " spread them over more nodes, or take fewer"
            )
        found.append(rng.choice(parts[node], share, replace=False))
    return np.sort(np.concatenate(found))


def corrupted_labels(
    labels: np.ndarray, examples: np.ndarray, seed: int, classes: int = 0
) -> np.ndarray:
    """Labels of which some are another class, drawn evenly among the others.

    Args:
      labels: int[examples].
      examples: which ones, from `drawn_examples`.
      seed: of the draw.
      classes: how many there are; 0 for one more than the largest label.
    """
    labels, rng = np.array(labels), np.random.default_rng(seed)
    classes = classes or int(labels.max()) + 1
    moved = labels[examples] + rng.integers(1, classes, len(examples))
    labels[examples] = moved % classes
    return labels


def corrupted_pixels(inputs: np.ndarray, examples: np.ndarray, seed: int) -> np.ndarray:
    """Inputs of which some are noise, evenly drawn between the smallest and the largest number.

    Args:
      inputs: f32[examples, ...].
      examples: which ones, from `drawn_examples`.
      seed: of the draw.
    """
    inputs, rng = np.array(inputs), np.random.default_rng(seed)
    noise = rng.uniform(inputs.min(), inputs.max(), (len(examples), *inputs.shape[1:]))
    inputs[examples] = noise.astype(inputs.dtype)
    return inputs


def check_presence(presence: Presence, rounds: int, nodes: int) -> Presence:
    """A presence as arrays of type bool.

    Raises:
      UserError: of other rounds or nodes.
    """
    found = Presence(*(np.asarray(each).astype(bool) for each in presence))
    for name, each in found._asdict().items():
        if each.shape != (rounds, nodes):
            raise UserError(
                f"presence.{name} has the shape {each.shape}; allowed: ({rounds}, {nodes}), rounds"
                " and nodes; see scenarios.everybody"
            )
    return found


def _where(presence: Presence, nodes: Iterable[int], at: int, until: int | None) -> np.ndarray:
    rounds, count = presence.alive.shape
    nodes = [int(node) for node in nodes]
    end = rounds if until is None else until
    if not 0 <= at <= end <= rounds:
        raise UserError(f"from round {at} to {until}; allowed: rounds from 0 to {rounds}, in turn")
    if not all(0 <= node < count for node in nodes):
        raise UserError(f"nodes are {nodes}; allowed: 0 to {count - 1}")
    where = np.zeros((rounds, count), bool)
    where[at:end, nodes] = True
    return where
