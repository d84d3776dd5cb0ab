"""What decides which units a node keeps."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.structure.groups import Groups


class Seen(NamedTuple):
    """What a node knows when it chooses.

    Attributes:
      round: rounds so far.
      groups: of the whole network, whose units are chosen.
      opened: {group: f64[units]}, the probability that a unit's gate is open; ones without gates.
      evidence: makes what criteria look at: the node's weights, in whole arrays with zeros where it
        has no unit, and some of its examples.
    """

    round: int
    groups: Groups
    opened: Mapping[str, np.ndarray]
    evidence: Callable[[], Evidence]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice of units; derive from it and override `scores`.

    The node keeps, of every group, as many of the best units as its budget has room for. A unit
    that it gave up does not come back, unless the choice `returns` them.
    """

    gated: ClassVar[bool] = False  # whether units have hard-concrete gates, and go by them, too
    averaged: ClassVar[bool] = False  # whether neighbours average the gates as they do weights
    returns: ClassVar[bool] = False  # whether units come back

    def scores(self, seen: Seen) -> Mapping[str, np.ndarray]:
        """{group: f64[units]}, more for a unit that is rather kept.

        Args:
          seen: of the node.
        """
        raise NotImplementedError
