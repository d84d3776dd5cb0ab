"""Groups whose units go one by one in each of several blocks: query heads that share keys.

They are found as the units at the same place of every block (`find`). Where nothing joins
these (`jaxprs.blocks.may_differ`), every place of every block is a unit of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from dynhp_jax.common.tree_paths import InputPath, Path
from dynhp_jax.jaxprs.blocks import Blocks, may_differ, with_inner
from dynhp_jax.jaxprs.labels import Axis
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.structure.group import Group, Member


def in_blocks(
    traced: Traced, groups: tuple[Group, ...], units: Mapping[str, np.ndarray]
) -> tuple[tuple[Group, ...], dict[str, np.ndarray | Blocks]]:
    """The groups with units one by one in blocks, where that is possible, and their atoms.

    Args:
      traced: the model.
      groups: units at the same place of each block are one unit.
      units: the atoms of the units of each group.
    """
    owner = {atom: name for name, atoms in units.items() for atom in atoms.tolist()}
    found, atoms, finder = [], dict(units), _Finder(traced)
    for group in groups:
        blocks = finder.blocks(group, units[group.name])
        of = {owner.get(atom, "") for atom in blocks.outer.tolist()} if blocks else set()
        if blocks and len(of) == 1 and np.array_equal(units.get(*of, blocks.outer), blocks.outer):
            group = _by_place(traced, group, blocks, *of)
            atoms[group.name] = blocks
        found.append(group)
    return tuple(found), atoms


class _Finder:
    def __init__(self, traced: Traced):
        self.traced = traced

    def blocks(self, group: Group, units: np.ndarray) -> Blocks | None:
        """The blocks of a group, if its units are places that are told apart by their blocks."""
        data = any(isinstance(m.path, InputPath) for m in group.members)
        if group.size == 1 or group.chosen or data:
            return None
        labels, blocks = self.traced.labels, None
        for m in group.members:
            here = with_inner(labels, self.traced.leaves[m.path][m.axis], units)
            if here is None or (blocks and not all(map(np.array_equal, here, blocks))):
                return None
            blocks = here
        if blocks is None or self._convolved(blocks) or not self._shared(group, blocks):
            return None
        return blocks if may_differ(labels, self.traced.arrays, blocks) else None

    def _convolved(self, blocks: Blocks) -> bool:
        """Whether the blocks are the groups of a convolution."""
        find, groups = self.traced.labels.find, self.traced.walk.convolved
        return any(np.isin(blocks.outer, find(group)).any() for group in groups)

    def _shared(self, group: Group, blocks: Blocks) -> bool:
        """Whether the units of a block share one that is like them: heads of queries one of keys.

        It is made by products, of the same atoms but for the place in the block.
        """
        labels, outer = self.traced.labels, int(blocks.outer[0])
        has_outer, has_inner = (labels.dead_mask(digit) for digit in blocks)
        members = {(m.path, m.axis) for m in group.members}
        wanted: list[set[int]] = []
        others: dict[tuple[Path, int], list[set[int]]] = {}
        for path, axes in self._made.items():
            for d, axis in axes.items():
                if not any(has_outer[digit].any() for digit in axis):
                    continue
                positions, atoms = labels.axis_pairs(axis)
                beside = set()
                for other in axes.keys() - {d}:
                    beside |= set(labels.axis_pairs(axes[other])[1].tolist())
                here = positions[atoms == outer]
                if (path, d) in members:
                    one = here[np.isin(here, positions[atoms == blocks.inner[0]])]
                    like = set(atoms[np.isin(positions, one)].tolist()) | beside
                    wanted.append(like - {int(blocks.inner[0])})
                placed = positions[has_inner[atoms]]
                others[path, d] = [
                    set(atoms[positions == at].tolist()) | beside
                    for at in np.setdiff1d(here, placed)
                ]
        return any(
            like == set().union(*(held for held in each if held <= like))
            for like in wanted
            for each in others.values()
        )

    @functools.cached_property
    def _made(self) -> dict[Path, dict[int, Axis]]:
        """The axes of each leaf along which products have results: leaf -> number -> axis."""
        labels, out = self.traced.labels, {}
        for path, role, atoms in self.traced.walk.roles:
            if role == "out":
                out.setdefault(path, []).append(atoms)
        made: dict[Path, dict[int, Axis]] = {}
        for path, every in out.items():
            has = labels.dead_mask(labels.leaves(np.concatenate(every)))
            made[path] = {
                d: axis
                for d, axis in enumerate(self.traced.leaves[path])
                if any(has[digit].any() for digit in axis)
            }
        return made


def _by_place(traced: Traced, group: Group, blocks: Blocks, of: str) -> Group:
    size = blocks.outer.size * blocks.inner.size
    members = []
    for m in group.members:
        positions, numbers = blocks.on(traced.labels, traced.leaves[m.path][m.axis])
        index = positions[np.argsort(numbers, kind="stable")].reshape(size, -1)
        members.append(Member(m.path, m.axis, index, m.role, m.products))
    return dataclasses.replace(
        group, size=size, members=tuple(members), blocks=blocks.outer.size, block_group=of
    )


def equal_keep(group: Group, keep: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The units that stay, without those of blocks that are cut as a whole.

    Args:
      group: of several blocks.
      keep: sorted units.
      blocks: those that stay.

    Raises:
      ValueError: unless equally many of each block stay, at least one.
    """
    per = group.size // group.blocks
    keep = keep[np.isin(keep // per, blocks)]
    counts = np.bincount(keep // per, minlength=group.blocks)[blocks]
    for low in (int(counts.argmin()), int(counts.argmax())):
        if counts[low] != counts[0] or counts[low] == 0:
            first = [int(blocks[at]) * per for at in (0, low)]
            raise ValueError(
                f"keep of group {group.name!r} holds {counts[0]} of the units {first[0]} to "
                f"{first[0] + per - 1} and {counts[low]} of {first[1]} to {first[1] + per - 1}; "
                f"keep equally many, 1 to {per}, of each {per} units"
            )
    return keep
