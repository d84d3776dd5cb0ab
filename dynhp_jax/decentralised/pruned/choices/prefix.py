"""HeteroFL's widths: a node keeps the first units of every group (2010.01264)."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dynhp_jax.decentralised.pruned.choices.choice import Choice, Seen


@dataclasses.dataclass(frozen=True)
class Prefix(Choice):
    """The first units; nothing is learned about them, and nothing is exchanged to agree."""

    def scores(self, seen: Seen) -> Mapping[str, np.ndarray]:
        return {name: -np.arange(group.size, dtype=float) for name, group in seen.groups.items()}
