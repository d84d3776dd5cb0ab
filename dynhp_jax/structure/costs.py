"""What a unit costs: numbers and bytes of the variables, work of a forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.jaxprs.trace import bytes_of
from dynhp_jax.structure.group import Group, Member


@dataclasses.dataclass(frozen=True, eq=False)
class WorkAxis:
    """One axis of a matrix product or convolution, with the units on it.

    Attributes:
      size: positions.
      units: group -> int[2, n], (unit, position) for all that a unit of the group has a part in.
    """

    size: int
    units: Mapping[str, np.ndarray]

    def share(self, group: Group) -> float:
        """The part of the axis that goes with one unit, of units that differ the mean."""
        pairs = self.units.get(group.name, np.empty((2, 0)))
        return pairs.shape[1] / group.size / max(self.size, 1)

    def shrunk(self, keeps: Mapping[str, np.ndarray]) -> WorkAxis:
        """The axis after a cut."""
        alive = np.ones(self.size, bool)
        for name in self.units.keys() & keeps.keys():
            unit, position = self.units[name]
            alive[position[~np.isin(unit, keeps[name])]] = False
        rank, left = np.cumsum(alive) - 1, {}
        for name, (unit, position) in self.units.items():
            stays = alive[position]
            unit = np.searchsorted(keeps[name], unit[stays]) if name in keeps else unit[stays]
            left[name] = np.stack([unit, rank[position[stays]]])
        return WorkAxis(int(alive.sum()), left)


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """A matrix product or convolution: its FLOPs, and those of its axes that hold units."""

    flops: float
    axes: tuple[WorkAxis, ...]

    def shrunk(self, keeps: Mapping[str, np.ndarray]) -> Work:
        """The same product after a cut: as much less as its axes are shorter."""
        axes, flops = tuple(axis.shrunk(keeps) for axis in self.axes), self.flops
        for before, after in zip(self.axes, axes, strict=True):
            flops *= after.size / max(before.size, 1)
        return Work(flops, axes)


def costed(
    group: Group,
    shapes: Mapping[Path, tuple[int, ...]],
    dtypes: Mapping[Path, Any],
    work: Sequence[Work],
) -> Group:
    """The group with what one of its units costs in variables of these shapes and in this work."""
    numbers, size = _held(group.members, shapes, dtypes)
    return dataclasses.replace(group, parameters=numbers, bytes=size, flops=_flops(group, work))


def _held(
    members: Sequence[Member], shapes: Mapping[Path, tuple[int, ...]], dtypes: Mapping[Path, Any]
) -> tuple[float, float]:
    """(numbers, bytes) of the variables that one unit holds."""
    left: dict[Path, float] = {}
    for m in members:
        if m.role != "data":
            share = m.index.shape[1] / max(shapes[m.path][m.axis], 1)
            left[m.path] = left.get(m.path, 1.0) * (1.0 - share)
    numbers = size = 0.0
    for path, kept in left.items():
        numbers += (1.0 - kept) * np.prod(shapes[path])
        size += (1.0 - kept) * bytes_of(shapes[path], dtypes[path])
    return float(numbers), float(size)


def _flops(group: Group, work: Sequence[Work]) -> float:
    """Work of a forward pass that one unit costs."""
    total = 0.0
    for product in work:
        left = 1.0
        for axis in product.axes:
            left *= 1.0 - axis.share(group)
        total += product.flops * (1.0 - left)
    return total
