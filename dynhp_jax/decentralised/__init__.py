"""Decentralised training: nodes on a graph, each with its own data, that exchange weights."""

from dynhp_jax.decentralised import centralities, flower, graphs, placement, scenarios
from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.decdiff import DecDiff
from dynhp_jax.decentralised.aggregation.dechw import DecHW
from dynhp_jax.decentralised.aggregation.registry import RULES, rule_of
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.aggregation.zero_filled import ZeroFilled
from dynhp_jax.decentralised.forgetting import forgetting, forgetting_targets
from dynhp_jax.decentralised.initialisation import drawn, independent, shared
from dynhp_jax.decentralised.member import Member
from dynhp_jax.decentralised.mixing import (
    deviation,
    influence,
    initialisation_gain,
    mixing_matrix,
    rounds_to_mix,
)
from dynhp_jax.decentralised.pruned.choices.agreed import Agreed
from dynhp_jax.decentralised.pruned.choices.choice import Choice
from dynhp_jax.decentralised.pruned.choices.own import Own
from dynhp_jax.decentralised.pruned.choices.prefix import Prefix
from dynhp_jax.decentralised.pruned.choices.registry import CHOICES, choice_of
from dynhp_jax.decentralised.pruned.choices.rolling import Rolling
from dynhp_jax.decentralised.pruned.choices.scored import Scored
from dynhp_jax.decentralised.pruned.gating import Gating
from dynhp_jax.decentralised.pruned.run import PrunedResult, train_pruned
from dynhp_jax.decentralised.run import Result, train
from dynhp_jax.decentralised.units import units_of
from dynhp_jax.decentralised.virtual_teacher import VirtualTeacher

__all__ = [
    "Agreed",
    "CHOICES",
    "Choice",
    "Coverage",
    "DecAvg",
    "DecDiff",
    "DecHW",
    "Gating",
    "Member",
    "Own",
    "Prefix",
    "PrunedResult",
    "RULES",
    "Result",
    "Rolling",
    "Rule",
    "Scored",
    "VirtualTeacher",
    "ZeroFilled",
    "centralities",
    "choice_of",
    "deviation",
    "drawn",
    "flower",
    "forgetting",
    "forgetting_targets",
    "graphs",
    "independent",
    "influence",
    "initialisation_gain",
    "mixing_matrix",
    "placement",
    "rounds_to_mix",
    "rule_of",
    "scenarios",
    "shared",
    "train",
    "train_pruned",
    "units_of",
]
