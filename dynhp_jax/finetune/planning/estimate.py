"""What a step may take, said before it is compiled, and corrected by those that were.

The estimate adds up what is known (arguments, gradients, inputs that are kept) and a rough figure
for masks and transients. Where it is wrong it is wrong alike for steps that are alike: what an
executable took beside its estimate is added to the estimates of the next ones.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import Quota, quotas
from dynhp_jax.finetune.planning.setting import Setting


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A step that may be compiled.

    Attributes:
      setting: how it saves bytes.
      depth: place of its lowest layer, in the order of execution, among those that may be trained.
      numbers: that its rows may cost.
      quotas: its rows.
      gain: the squared norm of the gradient that is expected of them.
      bytes: that it is estimated to take.
    """

    setting: Setting
    depth: int
    numbers: int
    quotas: Mapping[Path, Quota]
    gain: float
    bytes: float


class Estimate:
    """Candidates of a network, and rough figures of what they take.

    Args:
      costs: of all kernels, in the order of execution.
      layers: of the kernels whose rows may be trained, likewise.
      gains: path -> the squared norm of the gradient of all of a kernel's rows.
      examples: of the mini-batch.
      fixed: bytes of what does not depend on rows: variables, mini-batch, what is trained whole.
      batch: bytes of the mini-batch, which is copied where it is taken in parts.
      state: how many arrays of a row's shape there are: of the optimizer, and one of gradients.
      itemsize: bytes of a number.
      spare: how much more room for rows there is than rows are trained.
    """

    def __init__(
        self,
        costs: Mapping[Path, Cost],
        layers: Sequence[Path],
        gains: Mapping[Path, float],
        examples: int,
        fixed: int,
        batch: int,
        state: float,
        itemsize: int,
        spare: float,
    ):
        self.costs, self.layers, self.gains = costs, tuple(layers), gains
        self.examples, self.fixed, self.batch, self.state = examples, fixed, batch, state
        self.itemsize, self.spare = itemsize, spare
        names = list(costs)
        self._place = [names.index(path) for path in self.layers]
        self._read = np.array([cost.channels * cost.activation for cost in costs.values()])
        self._made = np.array([cost.outputs for cost in costs.values()])

    @property
    def whole(self) -> float:
        """The squared norm of the gradient of all layers that may be trained."""
        return sum(self.gains[path] for path in self.layers)

    def share(self, candidate: Candidate) -> float:
        """Of the gradient's norm, how much a candidate trains."""
        return (candidate.gain / self.whole) ** 0.5

    def said(self, candidate: Candidate) -> str:
        """What a candidate trains, in words."""
        counts = {path: quota.rows for path, quota in candidate.quotas.items()}
        rows = f"{sum(counts.values())} row{'s' if sum(counts.values()) > 1 else ''}"
        where = repr(next(iter(counts))) if len(counts) == 1 else f"{len(counts)} kernels"
        return (
            f"{rows} of {where} with {candidate.setting}, {self.share(candidate):.2%} of the norm"
        )

    def room(self, quotas: Mapping[Path, Quota]) -> dict[Path, Quota]:
        """How many rows of each kernel there is room for."""
        found = {}
        for path, quota in quotas.items():
            rows = math.ceil(quota.rows * (1 + self.spare))
            found[path] = Quota(min(quota.cost.channels, rows), quota.cost)
        return found

    def candidate(self, setting: Setting, depth: int, numbers: float) -> Candidate:
        """The step that trains what so many numbers pay for, of the layers from a depth on."""
        layers = self.layers[depth:]
        found = quotas(self.costs, layers, numbers)
        shares = ((quota.rows / quota.cost.channels, path) for path, quota in found.items())
        gain = sum(share * self.gains[path] for share, path in shares)
        size = self._bytes(setting, depth, self.room(found))
        return Candidate(setting, depth, int(numbers), found, gain, size)

    def least(self, setting: Setting) -> Candidate:
        """The cheapest row of the last layer."""
        depth = len(self.layers) - 1
        return self.candidate(setting, depth, self.costs[self.layers[depth]].row)

    def most(self, depth: int) -> int:
        """What all rows from a depth on cost."""
        return sum(self.costs[path].total for path in self.layers[depth:])

    def _bytes(self, setting: Setting, depth: int, room: Mapping[Path, Quota]) -> float:
        at, item = self._place[depth], self.itemsize
        part = self.examples / setting.parts
        of_rows = sum(quota.rows * quota.cost.weight for quota in room.values()) * self.state
        kept = sum(quota.rows * quota.cost.activation for quota in room.values()) * part
        masks = self._made[at:].sum() * part * (1 / 8 if setting.bits else item) / item
        both = self._read + self._made
        below = both[:at].max(initial=0) * min(part, setting.chunk or part)
        above = both[at:].max() * part + (self._read[at] * part if setting.chunk else 0)
        kept, masks = kept / setting.segments, masks / setting.segments
        above += both[at:].max() * part * (setting.segments - 1)
        copied = self.batch if setting.chunk or setting.parts > 1 else 0
        return (
            self.fixed
            + copied
            + item * (of_rows + max(below, kept * setting.epsilon + masks + above))
        )


class Corrected:
    """Estimates that go through what was measured of one setting."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[float, float]]] = {}  # depth -> (estimate, bytes), sorted

    def learn(self, candidate: Candidate, size: int) -> None:
        """Takes what a candidate's executable takes."""
        bisect.insort(self._seen.setdefault(candidate.depth, []), (candidate.bytes, float(size)))

    def bytes(self, candidate: Candidate) -> float:
        """What a candidate may take: its estimate, and what those near to it took beside theirs."""
        if not self._seen:
            return candidate.bytes
        near = min(self._seen, key=lambda depth: abs(depth - candidate.depth))
        return _through(self._seen[near], candidate.bytes)


def _through(points: Sequence[tuple[float, float]], at: float) -> float:
    """A line through points, and outside of them: below with slope 1, above as the last two."""
    before = [point for point in points if point[0] <= at]
    after = [point for point in points if point[0] > at]
    if not before:
        x, y = points[0]
        return y + at - x
    x, y = before[-1]
    if after:
        (right, top) = after[0]
        return y + (top - y) * (at - x) / (right - x)
    slope = 1.0
    if len(before) > 1 and x > before[-2][0]:
        slope = min(4.0, max(0.25, (y - before[-2][1]) / (x - before[-2][0])))
    return y + slope * (at - x)
