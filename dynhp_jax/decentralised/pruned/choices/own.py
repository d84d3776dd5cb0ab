"""DynHP on every node by itself: gates that nobody else hears of."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from dynhp_jax.decentralised.pruned.choices.choice import Choice, Seen


@dataclasses.dataclass(frozen=True)
class Own(Choice):
    """The units whose gates are open most often; nodes come to have different ones."""

    gated: ClassVar[bool] = True

    def scores(self, seen: Seen) -> Mapping[str, np.ndarray]:
        return seen.opened
