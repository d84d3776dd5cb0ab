"""Which atoms of a trace stand for which units of a group."""

from __future__ import annotations

import numpy as np

from dynhp_jax.jaxprs.blocks import Blocks, may_differ, with_units
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.structure.group import Group, Member

NONE = (np.empty(0, np.int64), np.empty(0, np.int64))  # no units, no atoms


def unit_atoms(traced: Traced, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """(units, atoms): which atoms stand for which units in another trace of the same variables.

    Raises:
      ValueError: if a unit has no atom there.
    """
    members = members_in(traced, group)
    found = [plain_atoms(traced, member) for member in members]
    if not any(units.size for units, _ in found):
        found = [_shared_atoms(traced, member) for member in members]
    units, atoms = np.concatenate(found, axis=1)
    if np.unique(atoms).size > group.size:  # what is on other axes too is another group's
        only = ~np.isin(atoms, _atoms_elsewhere(traced, members))
        if np.unique(units[only]).size == group.size:
            units, atoms = units[only], atoms[only]
    if np.unique(units).size < group.size:
        raise ValueError(f"the units of group {group.name!r} cannot be told apart in this function")
    return units, atoms


def members_in(traced: Traced, group: Group) -> list[Member]:
    """Those of a group's members that a trace has."""
    members = [m for m in group.members if m.path in traced.leaves]
    if not members:
        raise ValueError(f"the apply function has none of the leaves of group {group.name!r}")
    return members


def unit_blocks(traced: Traced, group: Group) -> Blocks:
    """Blocks and places of a group of several blocks, in another trace of the same variables.

    Raises:
      ValueError: if the blocks cannot lose units of their own choice there.
    """
    labels, found = traced.labels, None
    for m in members_in(traced, group):
        here = with_units(labels, traced.leaves[m.path][m.axis], m.index, group.blocks)
        if here is None or (found and not all(map(np.array_equal, here, found))):
            break
        found = here
    else:
        if may_differ(labels, traced.arrays, found):
            return found
    raise ValueError(
        f"this function joins units of group {group.name!r} that are at the same place of several "
        "blocks; find the groups on this one"
    )


def plain_atoms(traced: Traced, member: Member) -> tuple[np.ndarray, np.ndarray]:
    """(units, atoms) of an axis whose positions have one atom each."""
    positions, atoms = traced.labels.axis_pairs(traced.leaves[member.path][member.axis])
    several = positions.size != traced.shapes[member.path][member.axis]
    if several or member.shared:  # nor can one atom stand for two units
        return NONE
    units, k = member.index.shape
    return np.repeat(np.arange(units), k), atoms[member.index.reshape(-1)]


def _atoms_elsewhere(traced: Traced, members: list[Member]) -> np.ndarray:
    here = {(m.path, m.axis) for m in members}
    others = [
        traced.labels.axis_pairs(digits)[1]
        for path, axes in traced.leaves.items()
        for axis, digits in enumerate(axes)
        if (path, axis) not in here
    ]
    return np.concatenate([*others, np.empty(0, np.int64)])


def _shared_atoms(traced: Traced, member: Member) -> tuple[np.ndarray, np.ndarray]:
    """(units, atoms) of an axis with several factors: what all positions of one unit share."""
    units, k = member.index.shape
    positions, atoms = traced.labels.axis_pairs(traced.leaves[member.path][member.axis])
    at = member.units_at(traced.shapes[member.path][member.axis])[:, positions]  # [n, pairs]
    pairs = np.stack([at, np.broadcast_to(atoms, at.shape)])[:, at < units]
    pairs, times = np.unique(pairs, axis=1, return_counts=True)
    owner, atom = pairs[:, times == k]
    # Best are atoms that no other position has. Next best, those that no other unit has at all of
    # its positions: a factor that all units share says nothing.
    alone = np.bincount(atoms, minlength=1)[atom] == k
    own = np.bincount(atom, minlength=1)[atom] == 1
    for chosen in (alone, own):
        if np.unique(owner[chosen]).size == units:
            return owner[chosen], atom[chosen]
    return NONE
