"""What a decentralised run is: the section `nodes`, beside those of a single network."""

import dataclasses
import math

import ml_collections

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import (
    Section,
    as_text,
    choice,
    number,
    several,
    switch,
    text,
    whole,
)
from dynhp_jax.decentralised.centralities import CENTRALITIES
from dynhp_jax.decentralised.pruned.bytes_held import METERS
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments import config_sections

GRAPHS = ("ring", "star", "complete", "lattice", "erdos_renyi", "barabasi_albert",
          "stochastic_block")  # fmt: skip
PLACEMENTS = ("iid", "zipf", "dirichlet", "classes", "centrality")
_SHARE = "a number from 0 to 1"


@dataclasses.dataclass(frozen=True)
class Nodes(Section):
    """The section `nodes`. Of the other sections those of data, model, loss and optimizer hold.

    `config.batch.size` is the nodes' mini-batch, 32 for 0; `config.epochs` says nothing here.
    """

    prefix = "nodes."

    count: int = whole(16, 1, "how many nodes", high=100_000)
    graph: str = choice("ring", GRAPHS, "who is whose neighbour")
    degree: float = number(
        4.0, 1.0, math.inf, "a number, 1 or more",
        "neighbours of a node, on average, of erdos_renyi and barabasi_albert",
    )  # fmt: skip
    communities: int = whole(2, 1, "of stochastic_block, of equal sizes")
    inside: float = number(0.5, 0.0, 1.0, _SHARE, "probability of an edge in a community")
    between: float = number(0.05, 0.0, 1.0, _SHARE, "probability of an edge between two of them")
    rounds: int = whole(60, 1, "exchanges, each followed by training")
    local_epochs: int = whole(5, 1, "that a node trains in a round")
    rule: str = text("decavg", "of aggregation: NAME, NAME(option=value) or module:Class; see docs")
    weighted: bool = switch(True, "whether nodes count by their training examples")
    start: str = choice(
        "shared", ("shared", "gain", "independent"),
        "initial weights: the same, or each its own with or without the graph's gain",
    )  # fmt: skip
    momentum: float = number(0.5, 0.0, 1.0, _SHARE, "of the optimizer 'sgd'")
    restart: bool = switch(True, "whether the optimizer's state starts anew in every round")
    teacher: str = choice(
        "none", ("none", "kl", "published_code"), "a virtual teacher instead of the loss"
    )
    placement: str = choice("iid", PLACEMENTS, "which node has which examples")
    examples: int = whole(0, 0, "of each node with the placement iid; 0: as many as there are")
    exponent: float = number(1.6, 1.000001, 1e3, "a number above 1", "of the placement zipf")
    alpha: float = number(
        0.3, 1e-6, math.inf, "a number above 0", "of the placement dirichlet"
    )  # fmt: skip
    classes: int = whole(
        5, 1, "of every node, with the placement classes; that few nodes have, with centrality"
    )
    central: float = number(
        0.1, 0.0, 1.0, _SHARE, "share of the nodes that count as central: they have the classes,"
        " are dropped, or have the bad data",
    )  # fmt: skip
    by: str = choice("degree", tuple(CENTRALITIES), "by which nodes are central")
    lowest: bool = switch(False, "the least central ones instead")
    drop: str = choice(
        "none", ("none", "leave", "isolate", "lose_data"), "what happens to central nodes"
    )
    drop_at: int = whole(0, 0, "rounds before it happens")
    drop_until: int = whole(0, 0, "rounds before it is undone; 0: never")
    bad: str = choice("none", ("none", "labels", "pixels"), "what is corrupted")
    bad_share: float = number(0.1, 0.0, 1.0, _SHARE, "of all nodes' examples that are corrupted")
    bad_on: str = choice("all", ("all", "central"), "the nodes that have them")
    judge_every: int = whole(1, 1, "rounds from one judging on test examples to the next")
    judged: int = whole(1_000, 1, "test examples of a judging; the last one takes all")
    units: str = text(
        "all", "of nodes that prune themselves: agreed, own, prefix, rolling, scored or"
        " module:Class; all: nobody prunes",
    )  # fmt: skip
    budgets: tuple[str, ...] = several(
        ("none",), as_text, "texts as '50%' of the whole network's bytes, '2MiB' or 'none'",
        "bytes that nodes that prune themselves have, one after the other and over again",
    )  # fmt: skip
    meter: str = choice("compiled", METERS, "what these bytes are of")
    prune_from: int = whole(0, 0, "rounds before any unit goes")
    least_batch: int = whole(0, 0, "to which a mini-batch may shrink for a budget; 0: it may not")
    stacks: int = whole(4, 0, "sizes of nodes that are computed apart; 0: masked, in whole arrays")
    normalise: bool = switch(True, "inputs less their mean, by their deviation")
    at_once: int = whole(
        -1, -1, "nodes computed together: 0: all, 1: one after the other; -1: by their size"
    )


SECTIONS = {"nodes": Nodes}


def default_config_dict() -> ml_collections.ConfigDict:
    """`dynhp_jax.training.config.default_config_dict` with the section `nodes`."""
    return config_sections.with_defaults(Nodes)


def from_config_dict(values: ml_collections.ConfigDict) -> tuple[Config, Nodes]:
    """The config and its section `nodes`.

    Raises:
      UserError: the file is no config of a decentralised run, a name is no field, or a value is not
        allowed.
    """
    plain, nodes = config_sections.split(values, Nodes, "configs/dec_digits.py")
    if nodes.drop != "none" and not nodes.drop_at < (nodes.drop_until or nodes.rounds + 1):
        allowed = f"0 (never), or {nodes.drop_at + 1} (drop_at + 1) to {nodes.rounds}"
        raise ConfigError("nodes.drop_until", nodes.drop_until, allowed)
    if nodes.drop_until > nodes.rounds or nodes.drop_at > nodes.rounds:
        later = "drop_until" if nodes.drop_until > nodes.rounds else "drop_at"
        raise ConfigError(f"nodes.{later}", getattr(nodes, later), f"0 to {nodes.rounds}")
    return configuration.from_config_dict(ml_collections.ConfigDict(plain)), nodes
