"""What a group is made of: units, and the axes that hold them."""

from __future__ import annotations

import dataclasses

import numpy as np

from dynhp_jax.jaxprs.trace import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one array that holds units of a group.

    Attributes:
      path: leaf path ('params/hidden_1/kernel'), or 'inputs/0' for an input.
      axis: the axis.
      index: int[units, k], the k positions of the axis that each unit holds.
      role: 'out' where the leaf produces the units, 'in' where it reads them, 'with' where it
        accompanies them (bias, scale, statistics), 'data' for an input.
    """

    path: Path
    axis: int
    index: np.ndarray
    role: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that can be cut one by one, each through all members at once.

    Attributes:
      name: 'input', or the path of the module that first produces the units.
      size: number of units.
      members: every axis that holds them.
      exact: whether cutting a unit equals multiplying it by zero wherever it is read.
      reasons: why not, if not.
      parameters: numbers in the variables that one unit costs.
      bytes: their bytes.
      flops: work that one unit costs in a forward pass of the example inputs.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    exact: bool = True
    reasons: tuple[str, ...] = ()
    parameters: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Pinned:
    """An axis, or a part of one, that stays whole, and why."""

    path: Path
    axis: int
    positions: int
    reason: str
