"""How many numbers survive: in all parameters, and among those that a unit has a part in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.structure.group import Group, Member
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import check_masks, check_no_keeps


def alive_positions(groups: Groups, path: Path, axis: int, alive: Mapping[str, Any]) -> Any:
    """f[axis size]: one where a position of the axis survives; traceable.

    Args:
      groups: the groups.
      path: a leaf.
      axis: its axis.
      alive: name -> f32[units], one for a unit that survives; a missing name is all ones. With
        NumPy arrays NumPy computes, else jax.
    """
    size, xp = groups.shapes[path][axis], _module(alive)
    result = xp.ones(size)
    for group, member in groups.on_axis(path, axis):
        if group.name in alive:
            mask = xp.append(xp.asarray(alive[group.name], result.dtype), 1.0)
            for units in member.units_at(size):
                result = result * mask[units]
    return result


def _module(alive: Mapping[str, Any]) -> Any:
    return jnp if any(isinstance(mask, jax.Array) for mask in alive.values()) else np


class _Counts:
    """How many positions of each axis survive, each counted once."""

    def __init__(self, groups: Groups, alive: Mapping[str, Any]):
        groups.check_names(list(alive))
        check_no_keeps(alive, "masks")
        for name, mask in alive.items():
            if np.shape(mask) != (groups[name].size,):
                raise ValueError(
                    f"alive[{name!r}] has shape {np.shape(mask)}; allowed: ({groups[name].size},),"
                    " one for each unit that survives and zero for the others"
                )
        check_masks(alive)
        self.groups, self.alive, self.xp = groups, alive, _module(alive)
        self.units = {name: self.xp.sum(self.xp.asarray(mask)) for name, mask in alive.items()}
        self.known: dict[tuple[Path, int], Any] = {}

    def on_axis(self, path: Path, axis: int) -> Any:
        if (path, axis) not in self.known:
            self.known[path, axis] = self._count(path, axis)
        return self.known[path, axis]

    def _count(self, path: Path, axis: int) -> Any:
        size = self.groups.shapes[path][axis]
        here = [(g, m) for g, m in self.groups.on_axis(path, axis) if g.name in self.alive]
        if not here:
            return size
        if len(here) == 1 and not here[0][1].shared:
            ((group, member),) = here
            return size - member.index.shape[1] * (group.size - self.units[group.name])
        return self.xp.sum(alive_positions(self.groups, path, axis, self.alive))

    def of_units(self, group: Group, member: Member) -> Any:
        """f32[units]: surviving positions that each unit of the group holds on a member's axis."""
        here = [g for g, _ in self.groups.on_axis(member.path, member.axis) if g.name in self.alive]
        if not here:
            return self.xp.full(group.size, float(member.index.shape[1]))
        if here == [group] and not member.shared:
            return member.index.shape[1] * self.xp.asarray(self.alive[group.name])
        places = alive_positions(self.groups, member.path, member.axis, self.alive)
        return self.xp.sum(places[member.index], axis=1)

    def in_leaf(self, path: Path, without: int | None = None) -> Any:
        """Numbers of a leaf that survive, or those at one position of the axis `without`."""
        count: Any = 1.0
        for axis in range(len(self.groups.shapes[path])):
            if axis != without:
                count = count * self.on_axis(path, axis)
        return count


def fan_out(groups: Groups, alive: Mapping[str, Any]) -> dict[str, Any]:
    """How many surviving weights read each unit (the weight of its gate in the L0 penalty).

    Args:
      groups: the groups.
      alive: name -> f32[units] of ones and zeros; traceable. With NumPy arrays NumPy computes.

    Returns:
      name -> f[units].

    Raises:
      ValueError: `alive` names no group, or is of another length.
    """
    return _of_units(groups, alive, lambda member: member.role == "in")


def parameters_held(
    groups: Groups, alive: Mapping[str, Any], prefix: str = "params"
) -> dict[str, Any]:
    """How many surviving parameters go with each unit: those that read, make, shift or scale it.

    A parameter that goes with either of two units counts for both; in a kernel with the same units
    on both sides, a unit's own entry counts twice.

    Args:
      groups, alive: as in `fan_out`.
      prefix: of the leaves that count, as in `parameter_count`.

    Returns:
      name -> f[units].

    Raises:
      ValueError: no leaf is below `prefix`, or as in `fan_out`.
    """
    counted = _below(groups, prefix)
    return _of_units(groups, alive, lambda member: counted(member.path))


def _of_units(
    groups: Groups, alive: Mapping[str, Any], counted: Callable[[Member], bool]
) -> dict[str, Any]:
    counts, found = _Counts(groups, alive), {}
    for name, group in groups.items():
        total = counts.xp.zeros(group.size)
        for m in filter(counted, group.members):
            total = total + counts.in_leaf(m.path, m.axis) * counts.of_units(group, m)
        found[name] = total
    return found


def parameter_count(groups: Groups, alive: Mapping[str, Any], prefix: str = "params") -> Any:
    """Numbers that survive in the leaves below `prefix` (all variables: ''); traceable.

    With NumPy arrays NumPy computes, in float64; else in float32, exact up to 2**24 of them.

    Raises:
      ValueError: no leaf is below `prefix`, or as in `fan_out`.
    """
    counts, counted = _Counts(groups, alive), _below(groups, prefix)
    return sum((counts.in_leaf(path) for path in filter(counted, groups.shapes)), start=0.0)


def _below(groups: Groups, prefix: str) -> Callable[[Path], bool]:
    counted = below(prefix)
    if prefix and not any(map(counted, groups.shapes)):
        there = next((path for path in groups.shapes if below("")(path)), "none")
        raise ValueError(
            f"no leaf is below prefix {prefix!r}, so nothing is counted; there is {there!r}; pass"
            " prefix='' to count all"
        )
    return counted


def parameters_left(groups: Groups, masks: Mapping[str, np.ndarray]) -> int:
    """How many parameters are left with the units of the masks, on the host."""
    return round(float(parameter_count(groups, in_float64(masks))))


def in_float64(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(mask, np.float64) for name, mask in masks.items()}


def numbers_in(tree: Any) -> int:
    """How many numbers the arrays of a tree hold."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
