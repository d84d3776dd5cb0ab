"""Studies of decentralised learning: runs with one thing changed each, and a verdict over seeds.

A study says its claim, its runs ("arms") as changed fields of the section `nodes`, and how seeds
decide. A new one is an entry of STUDIES.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.decentralised import centralities
from experiments.nodes.scenario import Scenario
from experiments.nodes.settings import Nodes

Accuracies = Mapping[str, Sequence[float]]  # arm -> percent, by seed

LEAST = 1.0  # points of a difference that counts


@dataclasses.dataclass(frozen=True)
class Question:
    """A difference of two arms, or of two differences, and which sign the paper claims.

    Attributes:
      says: the claim in words.
      of: accuracies by arm -> points, by seed.
      above: whether the claim is that they are above zero by LEAST; else that they are not.
    """

    says: str
    of: Callable[[Accuracies], Sequence[float]]
    above: bool = True


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked.

    Attributes:
      claim: of the paper, with its number.
      arms: {name: fields of `nodes`}.
      questions: that the arms answer.
      nodes: fields of `nodes` of all arms.
      judged: the nodes whose accuracy is meant, of a scenario; all by default.
    """

    claim: str
    arms: Mapping[str, Mapping[str, Any]]
    questions: Sequence[Question]
    nodes: Mapping[str, Any]
    judged: Callable[[Nodes, Scenario], Any] = lambda nodes, scenario: np.arange(nodes.count)


def verdict(differences: Sequence[float], above: bool = True) -> str:
    """What seeds say of a claim.

    A difference counts where all seeds have the same sign and their mean is LEAST or more. One seed
    decides nothing.

    >>> verdict([3.0, 2.0, 4.0]), verdict([-3.0, -2.0, -4.0]), verdict([3.0, -1.0, 2.0])
    ('confirmed', 'refuted', 'undecided')
    """
    if len(differences) < 2:
        return "undecided"
    mean = statistics.fmean(differences)
    one_way = all(each > 0 for each in differences) or all(each < 0 for each in differences)
    if abs(mean) < LEAST or not one_way:
        return "undecided" if above else "confirmed" if abs(mean) < LEAST else "undecided"
    return "confirmed" if (mean > 0) == above else "refuted"


def answers(study: Study, found: Accuracies) -> list[dict[str, Any]]:
    """The questions with their differences and verdicts."""
    return [
        {
            "says": question.says,
            "points_by_seed": [round(float(each), 3) for each in question.of(found)],
            "verdict": verdict(question.of(found), question.above),
        }
        for question in study.questions
    ]


def others(nodes: Nodes, scenario: Scenario) -> np.ndarray:
    """The nodes that are not those on which something happens."""
    count = int(np.ceil(nodes.central * nodes.count))
    chosen = centralities.central(scenario.graph, count, nodes.by, nodes.lowest)
    return np.setdiff1d(np.arange(nodes.count), chosen)


def _less(one: str, other: str) -> Callable[[Accuracies], list[float]]:
    return lambda found: [a - b for a, b in zip(found[one], found[other], strict=True)]


def _placement() -> Study:
    graphs = {"ba": {"graph": "barabasi_albert", "degree": 4.0},
              "sbm": {"graph": "stochastic_block", "communities": 2}}  # fmt: skip
    arms, questions = {}, []
    for graph, fields in graphs.items():
        for by in centralities.CENTRALITIES:
            for place, lowest in (("top", False), ("bottom", True)):
                arms[f"{graph} {by} {place}"] = {**fields, "by": by, "lowest": lowest}
            claimed = by != "clustering"
            says = "above" if claimed else "not above"
            questions.append(Question(
                f"{graph}: rare classes on the nodes of highest {by} lead the others {says} those"
                " on the lowest",
                _less(f"{graph} {by} top", f"{graph} {by} bottom"), claimed,
            ))  # fmt: skip
    return Study(
        "2402.18606: data on central nodes spread, data on the edge do not; degree and betweenness"
        " say who is central, clustering does not",
        arms, questions, {"placement": "centrality", "classes": 5, "central": 0.125}, others,
    )  # fmt: skip


def _disruption() -> Study:
    arms = {
        "nobody": {},
        "data lost": {"drop": "lose_data"},
        "data and links lost": {"drop": "leave"},
        "lost midway": {"drop": "leave", "midway": True},
        "isolated midway": {"drop": "isolate", "midway": True},
    }

    def links_over_data(found: Accuracies) -> list[float]:
        rows = (found[name] for name in ("nobody", "data lost", "data and links lost"))
        return [(some - none) - (all_there - some)
                for all_there, some, none in zip(*rows, strict=True)]  # fmt: skip

    return Study(
        "2310.02986, 2405.02377: of the most central 30 %, losing the links hurts the others more"
        " than losing the data; what was learnt before stays",
        arms,
        [
            Question("the loss by links is larger than the loss by data", links_over_data),
            Question("nodes that lose the centre midway are above those that never had it",
                     _less("lost midway", "data and links lost")),
        ],
        {"graph": "barabasi_albert", "degree": 2.0, "central": 0.3, "weighted": False},
        others,
    )  # fmt: skip


def _bad_data() -> Study:
    arms: dict[str, Mapping[str, Any]] = {"clean": {}}
    for kind in ("labels", "pixels"):
        arms[f"{kind} spread"] = {"bad": kind, "bad_on": "all"}
        arms[f"{kind} on one"] = {"bad": kind, "bad_on": "central", "one": True}
    return Study(
        "2502.18097: a number of bad examples hurts less on a single node than spread over many",
        arms,
        [Question(f"{kind}: on one node above spread", _less(f"{kind} on one", f"{kind} spread"))
         for kind in ("labels", "pixels")],
        {"graph": "barabasi_albert", "degree": 4.0, "one_node_of_bad": True},
    )  # fmt: skip


def _decdiff() -> Study:
    arms = {
        "decavg": {"start": "independent"},
        "decavg with gain": {"start": "gain"},
        "decdiff, teacher": {"start": "independent", "rule": "decdiff", "teacher": "kl"},
        "decdiff, teacher as published": {"start": "independent", "rule": "decdiff",
                                          "teacher": "published_code"},
    }  # fmt: skip
    return Study(
        "2312.04504: with unequal data and independent weights DecDiff and the virtual teacher are"
        " above DecAvg",
        arms,
        [
            Question("decdiff with the teacher above decavg", _less("decdiff, teacher", "decavg")),
            Question("as published above decavg", _less("decdiff, teacher as published", "decavg")),
            Question("also above decavg with the gain of the mixing matrix",
                     _less("decdiff, teacher", "decavg with gain")),
        ],
        {"graph": "erdos_renyi", "degree": 6.0, "placement": "zipf"},
    )  # fmt: skip


STUDIES: dict[str, Callable[[], Study]] = {
    "placement": _placement,
    "disruption": _disruption,
    "bad_data": _bad_data,
    "decdiff": _decdiff,
}


def fields_of(study: Study, arm: str, nodes: Nodes) -> Nodes:
    """The section `nodes` of an arm, with the size that `nodes` has.

    Three of the names in a study are no fields: `midway` is half of the rounds, `one` the share of
    the nodes that is one of them, `one_node_of_bad` the share of bad examples that a node can hold.
    """
    fields = {**study.nodes, **study.arms[arm]}
    if fields.pop("midway", False):
        fields["drop_at"] = nodes.rounds // 2
    if fields.pop("one", False):
        fields["central"] = 1 / nodes.count
    if fields.pop("one_node_of_bad", False):
        fields["bad_share"] = 1 / nodes.count
    return dataclasses.replace(nodes, **fields)
