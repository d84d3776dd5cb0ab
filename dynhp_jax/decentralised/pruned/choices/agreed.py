"""DynHP with gates that neighbours average: nodes come to agree on the order of the units."""

import dataclasses
from typing import ClassVar

from dynhp_jax.decentralised.pruned.choices.own import Own


@dataclasses.dataclass(frozen=True)
class Agreed(Own):
    """The units whose gates are open most often, after an average over the nodes that have them.

    Only how many it keeps is a node's own, so that a smaller node's units are among a larger one's.
    """

    averaged: ClassVar[bool] = True
