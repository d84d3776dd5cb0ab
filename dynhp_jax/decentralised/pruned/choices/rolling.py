"""FedRolex: the window of units that a node has moves on in every round (2212.01548)."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.pruned.choices.choice import Choice, Seen


@dataclasses.dataclass(frozen=True)
class Rolling(Choice):
    """Neighbouring units, the first of which moves on, so that every unit has its turn.

    FedRolex keeps the whole network on a server. Here nobody may have it: a unit that comes back is
    the average of the neighbours that have it, or as it was at the start where none has.

    Attributes:
      step: units by which the window moves in a round.
    """

    step: int = 1

    returns: ClassVar[bool] = True

    def __post_init__(self):
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 1:
            raise UserError(f"Rolling.step is {self.step!r}; allowed: a whole number, 1 or more")

    def scores(self, seen: Seen) -> Mapping[str, np.ndarray]:
        def turned(size: int) -> np.ndarray:
            return -((np.arange(size) - self.step * seen.round) % size).astype(float)

        return {name: turned(group.size) for name, group in seen.groups.items()}
