"""A criterion in the place of gates, such as the norm of a unit's weights on the node."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dynhp_jax.decentralised.pruned.choices.choice import Choice, Seen
from dynhp_jax.pruning.criteria import parse
from dynhp_jax.pruning.criteria.score import score


@dataclasses.dataclass(frozen=True)
class Scored(Choice):
    """The units that a criterion ranks first, on the node's own weights and examples.

    Attributes:
      criterion: as text: a name of `dynhp_jax.pruning.criteria`, with options if wanted.
    """

    criterion: str = "l2"

    def __post_init__(self):
        parse.parse(self.criterion)

    def scores(self, seen: Seen) -> Mapping[str, np.ndarray]:
        return score(parse.parse(self.criterion), seen.evidence(), self.criterion)
