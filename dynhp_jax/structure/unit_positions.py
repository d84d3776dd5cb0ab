"""Where the units of groups, and the examples, are on the axes of a traced program's values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jax.interpreters import partial_eval

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.trace import Traced
from dynhp_jax.jaxprs.values import Value
from dynhp_jax.structure.group import places
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.unit_atoms import NONE, plain_atoms, unit_atoms, unit_blocks


class UnitPlaces:
    """The places of the units of the named groups; it remembers which groups were met."""

    def __init__(self, traced: Traced, groups: Groups, names: Collection[str]):
        self.traced, self.groups = traced, groups
        self.blocks = {  # of groups whose units are places in blocks
            name: unit_blocks(traced, groups[name])
            for name in names
            if groups[name].size > groups[name].blocks > 1
        }
        self.unit_of = {  # name -> int[atoms], -1 where none of its units (or places) is
            name: self._by_atom(self.blocks[name].inner, np.arange(self.blocks[name].inner.size))
            if name in self.blocks
            else self._by_atom(*reversed(unit_atoms(traced, groups[name])))
            for name in names
        }
        # Where a factor of an axis has come down to one unit, no atom stands for it alone: a
        # reshape to [1, size] leaves the atoms of the other factor, or of all groups on the axis.
        last = [name for name in names if groups[name].size == 1]
        self.unplaced = {
            name
            for name in last
            if (np.sum(mine := self.unit_of[name] >= 0) > 1 or self._owners[mine].max() > 1)
        }
        self.met: set[str] = set()
        batch = np.empty(0, np.int64) if traced.batch is None else traced.batch
        self.example_of = self._by_atom(traced.labels.find(batch), np.arange(batch.size))

    def units_on(
        self, axis: Axis, values: list[Value], names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """name -> int[n, axis size]: the units at each position, `units` where there is none.

        Of the groups (of all that are looked for, or of those named) whose units an equation with
        these operands reads there; they count as met.
        """
        names = self.unit_of if names is None else names
        found = self._on(axis, lambda name: name in names and self._is_read(name, values))
        self.met.update(found)
        return found

    def read_over(
        self,
        value: Value,
        dims: Sequence[int],
        values: list[Value],
        names: Collection[str] | None = None,
    ) -> list[tuple[tuple[int, ...], dict[str, np.ndarray]]]:
        """(axes, units as `units_on` says) of what is read along some of the axes of a value.

        Two axes stand for one that is their product: blocks, and places in them.
        """
        found = [((d,), self.units_on(value.axes[d], values, names)) for d in dims]
        for name, blocks in self.blocks.items():
            both = blocks.split_over(self.traced.labels, value.axes)
            wanted = names is None or name in names
            if wanted and both and both[1] in dims and self._is_read(name, values):
                self.met.add(name)
                axis = (*value.axes[both[0]], *value.axes[both[1]])
                found.append((both, self._on(axis, lambda other, name=name: other == name)))
        return [(axes, units) for axes, units in found if units]

    def chosen_on(self, axis: Axis) -> dict[str, np.ndarray]:
        """The same of groups whose units are chosen among, wherever they are."""
        if not any(self.groups[name].chosen for name in self.unit_of):
            return {}
        return self._on(axis, lambda name: bool(self.groups[name].chosen))

    def _on(self, axis: Axis, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
        positions, atoms, times = self.traced.labels.occurrences(axis)
        found = {}
        for name, table in self.unit_of.items():
            at, count = table[atoms] >= 0, self.groups[name].size
            if name in self.blocks and at.any() and wanted(name):
                there, units = self.blocks[name].on(self.traced.labels, axis)
                if there.size:
                    found[name] = places(units, there, axis_size(axis), count)
            elif at.any() and wanted(name):
                there, units = _each(positions[at], table[atoms[at]], times[at], count)
                found[name] = places(units, there, axis_size(axis), count)
        return found

    def told_apart(self, name: str) -> bool:
        """Whether the units of a group are known without the leaf that reads them.

        Copies that are taken of other units may be as many as these, after a cut; then their atoms
        are the same, and what happens before they are taken is none of their business.
        """
        made = any(m.role in ("out", "data") for m in self.groups[name].members)
        return made or self._owners[self.unit_of[name] >= 0].max(initial=0) <= 1

    def batch_axis(self, value: Value) -> int | None:
        """The first axis with examples."""
        on = (d for d, axis in enumerate(value.axes) if self.traced.walk.has_examples(axis))
        return next(on, None)

    def examples_on(self, axis: Axis) -> np.ndarray:
        """int[axis size]: the example at each position."""
        positions, atoms = self.traced.labels.axis_pairs(axis)
        at = self.example_of[atoms] >= 0
        examples = np.zeros(axis_size(axis), np.int64)
        examples[positions[at]] = self.example_of[atoms[at]]
        return examples

    def check_met(self) -> None:
        """To be called after all that read units were asked for theirs.

        Raises:
          ValueError: for a group whose units were not found where they are read.
        """
        for name in sorted(self.unplaced - self.met):
            raise ValueError(
                f"the units of group {name!r} are read where they cannot be told from an axis of "
                "size one; leave its gate out"
            )
        for name in sorted(self.unit_of.keys() - self.met):
            if self._matters(name):
                raise ValueError(
                    f"no matrix product or convolution reads the units of group {name!r}, and no "
                    "exact sum, so its gate would do nothing; leave it out, or multiply by it in "
                    "the model"
                )

    def _matters(self, name: str) -> bool:
        """Whether units that were never met still do something here; what is not used need not be.

        They are looked at as a whole (a reduction), are results themselves, or are read by a leaf
        in a way that does not tell them apart.
        """
        labels, results = self.traced.labels, self.traced.analysis.outputs
        seen = [labels.axis_pairs(axis)[1] for value in results for axis in value.axes]
        looked_at = [*labels.flagged(), *labels.pinned(), *labels.chosen()]
        sums = [labels.axis_pairs(axis)[1] for axis in self.traced.walk.sums]
        looked_at = np.concatenate([looked_at, *sums])
        members = [m for m in self.groups[name].members if m.path in self.traced.leaves]
        mine = [np.flatnonzero(self.unit_of[name] >= 0)]
        mine += [plain_atoms(self.traced, m)[1] for m in members]
        if np.isin(np.concatenate(mine), np.concatenate([looked_at, *seen])).any():
            return True
        used = _used(self.traced)
        return any(m.role == "in" and m.path in used for m in members)

    def _is_read(self, name: str, values: list[Value]) -> bool:
        """Whether a contraction whose operands share an atom with the group reads its units.

        Leaves that read units say whose; others (a number that is repeated along them) do not.
        """
        paths = frozenset().union(*(v.sources for v in values)) & self._readers
        if not paths:
            return name not in self.unplaced
        return any(m.role == "in" and m.path in paths for m in self.groups[name].members)

    @functools.cached_property
    def _readers(self) -> frozenset[Path]:
        """The leaves that read the units of some group."""
        members = (m for group in self.groups.values() for m in group.members)
        return frozenset(m.path for m in members if m.role == "in")

    def _by_atom(self, atoms: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        table = np.full(len(self.traced.labels), -1)
        table[atoms] = numbers
        return table

    @functools.cached_property
    def _owners(self) -> np.ndarray:
        """int[atoms]: how many groups have units with this atom."""
        owners = np.zeros(len(self.traced.labels), int)
        for group in self.groups.values():
            members = [m for m in group.members if m.path in self.traced.leaves]
            atoms = [plain_atoms(self.traced, m)[1] for m in members]
            owners[np.unique(np.concatenate(atoms or [NONE[1]]))] += 1
        return owners


def _used(traced: Traced) -> set[Path]:
    """The leaves that the outputs depend on."""
    jaxpr = traced.analysis.jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return {path for path, needed in zip(traced.leaves, used, strict=True) if needed}


def _each(
    positions: np.ndarray, units: np.ndarray, times: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(positions, units) with a unit at a position as often as it is a factor there.

    A unit that has several atoms at a position is there as often as the most frequent of them.
    """
    keys, where = np.unique(positions * count + units, return_inverse=True)
    most = np.zeros(keys.size, np.int64)
    np.maximum.at(most, where, times)
    return np.divmod(np.repeat(keys, most), count)
