"""What a group is made of: units, and the axes that hold them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dynhp_jax.common.tree_paths import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one array that holds units of a group.

    Attributes:
      path: leaf path ('params/hidden_1/kernel'), or an `InputPath` ('inputs/0') for an input.
      axis: the axis.
      index: int[units, k], the k positions of the axis that each unit holds; in the outer product
        of units with themselves a position is held by two of them.
      role: 'out' where the leaf produces the units, 'in' where it reads them, 'with' where it
        accompanies them (bias, scale, statistics), 'data' for an input.
      products: whether positions hold products of several of the group's units, or did before a
        cut that left one unit.
    """

    path: Path
    axis: int
    index: np.ndarray
    role: str
    products: bool = False

    @functools.cached_property
    def shared(self) -> bool:
        """Whether some position is held by more than one unit."""
        return np.unique(self.index).size < self.index.size

    def units_at(self, size: int) -> np.ndarray:
        """int[n, size]: the units that hold each position of an axis of this size; see `places`."""
        units, k = self.index.shape
        return places(np.repeat(np.arange(units), k), self.index.reshape(-1), size, units)


INPUT = "input"
VOCABULARY = "vocabulary"
EXPERT = "expert"
HIDDEN = "hidden"
# Kinds of units that scores and prunes take where they are named: what the network reads, not what
# it computes, and what it chooses among.
BY_NAME = frozenset({INPUT, VOCABULARY, EXPERT})


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that can be cut one by one, each through all members at once.

    Attributes:
      name: 'input', or the path of the module that first produces the units.
      size: number of units.
      members: every axis that holds them.
      exact: whether cutting a unit equals multiplying it by zero wherever it is read and, where
        units are chosen among, leaving it out of the choice.
      reasons: why not, if not.
      chosen: the primitives that choose among the units by their values ('top_k', 'argmax'), as a
        router among experts. A unit that is not there is never chosen, as if its value were -inf
        (of 'argmin' inf), and left out of sums, maxima and softmaxes over the units.
      least: how many units have to stay, as so many are chosen.
      blocks: how many blocks the units form, one after the other, of equal sizes. Any units may go,
        but equally many in each block: query heads that share keys and values.
      block_group: the group of which the blocks are the units, if there is one; a block that is cut
        as a whole counts no more.
      parameters: numbers that one unit costs, in the variables that the groups speak of.
      bytes: their bytes.
      flops: work that one unit costs in a forward pass of the example inputs.
      kind: INPUT for the features of an input; VOCABULARY for units that are made of the inputs
        without any variable and read by kernels, such as one-hot words; EXPERT for those that are
        chosen among; HIDDEN for all others.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    exact: bool = True
    reasons: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    least: int = 1
    blocks: int = 1
    block_group: str = ""
    parameters: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0
    kind: str = HIDDEN


@dataclasses.dataclass(frozen=True)
class Pinned:
    """An axis, or a part of one, that stays whole, and why."""

    path: Path
    axis: int
    positions: int
    reason: str


def places(units: np.ndarray, positions: np.ndarray, size: int, nothing: int) -> np.ndarray:
    """int[n, size]: the units at each position of an axis, `nothing` where there are less than n.

    >>> places(np.array([0, 1, 1]), np.array([2, 0, 2]), 3, 9)
    array([[1, 9, 0],
           [9, 9, 1]])
    """
    order = np.argsort(positions, kind="stable")
    units, positions = units[order], positions[order]
    nth = np.arange(positions.size) - np.searchsorted(positions, positions)
    found = np.full((nth.max(initial=0) + 1, size), nothing)
    found[nth, positions] = units
    return found


def mismatch(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What to say of a leaf of another shape than the groups expect."""
    return (
        f"leaf {path!r} has shape {tuple(found)}; the groups expect {tuple(wanted)} "
        "(after a cut, use groups.shrunk(keeps))"
    )
