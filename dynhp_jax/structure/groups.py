"""`Groups`: the units of a model that live and die together, and what is left of them by a cut."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.common.tree_paths import InputPath, Path, below
from dynhp_jax.structure.costs import Work, costed
from dynhp_jax.structure.equal_blocks import equal_keep
from dynhp_jax.structure.group import BY_NAME, Group, Member, Pinned
from dynhp_jax.structure.keeps import Keeps, UnitKeeps, check_no_masks
from dynhp_jax.structure.table import table


@dataclasses.dataclass(frozen=True, eq=False)
class Groups(Mapping[str, Group]):
    """All groups of a model, in the order in which their units are produced.

    Attributes:
      shapes: shape of every leaf of the variables and of every input, by path.
      dtypes: their dtypes.
      pinned: the axes that are in no group.
      unknown: primitives without a rule -> number of equations.
      work: matrix products and convolutions that units have a part in.
    """

    groups: tuple[Group, ...]
    shapes: Mapping[Path, tuple[int, ...]]
    dtypes: Mapping[Path, Any]
    pinned: tuple[Pinned, ...] = ()
    unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)
    work: tuple[Work, ...] = ()

    @functools.cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @functools.cached_property
    def _by_axis(self) -> dict[tuple[Path, int], list[tuple[Group, Member]]]:
        found: dict = {}
        for group in self.groups:
            for member in group.members:
                found.setdefault((member.path, member.axis), []).append((group, member))
        return found

    def __getitem__(self, name: str) -> Group:
        if name not in self._by_name:
            raise KeyError(self._unknown(name))
        return self._by_name[name]

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(str(name), list(self), n=3, cutoff=0.3)
        return f"no group {name!r}; nearest: {', '.join(near or list(self)) or 'none'}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the groups that can be cut exactly and have more than one unit."""
        return tuple(g.name for g in self.groups if g.exact and g.size > g.blocks)

    @property
    def computed(self) -> tuple[str, ...]:
        """Those of `prunable` that the network computes: no inputs, words or experts.

        What scores and prunes without names takes these: without an input (a channel of an image)
        or a word the network reads other data than it was made for; without an expert the others
        are chosen for what it did.
        """
        return tuple(name for name in self.prunable if self[name].kind not in BY_NAME)

    def select(self, names: Sequence[str]) -> Groups:
        """Only the groups with these names; the others stay whole.

        Raises:
          ValueError: for a name that does not exist, with the nearest that do.
        """
        self.check_names(names)
        chosen = tuple(g for g in self.groups if g.name in set(names))
        return dataclasses.replace(self, groups=chosen)

    def check_names(self, names: Sequence[str]) -> None:
        """Raises ValueError for a name that is no group's, naming the nearest."""
        for name in names:
            if name not in self._by_name:
                raise ValueError(self._unknown(name))

    def at(self, prefix: str) -> Groups:
        """The same groups for the subtree at a path: `at('params')` for `variables['params']`.

        Inputs stay what they are. What a unit costs is counted in the subtree, its FLOPs in the
        whole model.
        """
        start, inside = prefix + "/", below(prefix)

        def here(path: Path) -> bool:
            return inside(path) or isinstance(path, InputPath)

        def renamed(path: Path) -> Path:
            return path if isinstance(path, InputPath) else path.removeprefix(start)

        def of_subtree(by_path: Mapping[Path, Any]) -> dict[Path, Any]:
            return {renamed(p): known for p, known in by_path.items() if here(p)}

        def moved(part: Any) -> Any:
            return dataclasses.replace(part, path=renamed(part.path))

        groups = tuple(
            dataclasses.replace(g, members=tuple(moved(m) for m in g.members if here(m.path)))
            for g in self.groups
        )
        return dataclasses.replace(
            self,
            groups=groups,
            shapes=of_subtree(self.shapes),
            dtypes=of_subtree(self.dtypes),
            pinned=tuple(moved(p) for p in self.pinned if here(p.path)),
        )._costed()

    def tie(self, path: Path, axis: int, name: str, shape: tuple[int, ...] | None = None) -> Groups:
        """With one more leaf whose `axis` holds the units of group `name` one to one.

        So that one cut covers arrays that the model does not know: gates, masks, counts.

        Raises:
          ValueError: for a name that is no group's, or a shape without the units on that axis.
        """
        self.check_names([name])
        group = self[name]
        shape = tuple(shape or (group.size,))
        if shape[axis : axis + 1] != (group.size,):
            raise ValueError(
                f"leaf {path!r} has shape {shape}; to be tied to group {name!r} it needs"
                f" {group.size} units on axis {axis}"
            )
        member = Member(path, axis, np.arange(group.size)[:, None], "with")
        shapes = {**self.shapes, path: shape}
        dtypes = {**self.dtypes, path: np.dtype(np.float32)}
        tied = dataclasses.replace(group, members=(*group.members, member))
        tied = costed(tied, shapes, dtypes, self.work)
        groups = tuple(tied if g is group else g for g in self.groups)
        return dataclasses.replace(self, groups=groups, shapes=shapes, dtypes=dtypes)

    def _costed(self) -> Groups:
        """With the costs of units in the variables that these groups speak of."""
        costs = tuple(costed(g, self.shapes, self.dtypes, self.work) for g in self.groups)
        return dataclasses.replace(self, groups=costs)

    def on_axis(self, path: Path, axis: int) -> list[tuple[Group, Member]]:
        """The groups that have units on an axis."""
        return self._by_axis.get((path, axis), [])

    def check_keeps(self, keeps: Keeps) -> UnitKeeps:
        """The keeps as int arrays, one for each group that loses units, also with its blocks.

        Raises:
          ValueError: for an unknown group, or indices that are not sorted, repeated, out of range,
            none at all, fewer than are chosen among the units, or unequally many of some blocks;
            for masks, and for keeps that count the units of another network.
        """
        check_no_masks(keeps)
        self.check_names(list(keeps))
        if isinstance(keeps, UnitKeeps):
            keeps.check_sizes({name: self[name].size for name in keeps})
        checked = {}
        for name, keep in keeps.items():
            keep, size = np.asarray(keep), self[name].size
            if keep.ndim != 1 or not (np.issubdtype(keep.dtype, np.integer) or keep.size == 0):
                raise ValueError(
                    f"keep of group {name!r} is {keep.dtype}{list(keep.shape)}; "
                    "allowed: a sorted vector of unit indices (np.flatnonzero of a mask)"
                )
            if keep.size == 0:
                raise ValueError(
                    f"keep of group {name!r} is empty; allowed: 1 to {size} of its units"
                )
            if keep.size < self[name].least:
                raise ValueError(
                    f"keep of group {name!r} holds {keep.size} units, of which"
                    f" {' and '.join(map(repr, self[name].chosen))} choose {self[name].least};"
                    f" allowed: {self[name].least} to {size} of its units"
                )
            keep = keep.astype(np.int64)  # differences of unsigned numbers are never negative
            if keep.size == size and set(keep.tolist()) <= {0, 1} and size > 2:
                raise ValueError(
                    f"keep of group {name!r} is zeros and ones, as a mask is; allowed: a sorted"
                    " vector of unit indices (np.flatnonzero of a mask)"
                )
            if (np.diff(keep) <= 0).any():
                raise ValueError(f"keep of group {name!r} is not sorted or repeats a unit; sort it")
            if keep[0] < 0 or keep[-1] >= size:
                raise ValueError(
                    f"keep of group {name!r} holds {int(keep[0] if keep[0] < 0 else keep[-1])}; "
                    f"allowed: 0 to {size - 1}"
                )
            if keep.size < size:
                checked[name] = keep
        for group in self.groups:
            if group.blocks > 1 and (group.name in checked or group.block_group in checked):
                keep = checked.get(group.name, np.arange(group.size))
                blocks = checked.get(group.block_group, np.arange(group.blocks))
                checked[group.name] = equal_keep(group, keep, blocks)
        return UnitKeeps(checked, self)

    def positions(self, path: Path, axis: int, keeps: Keeps) -> np.ndarray:
        """Surviving positions of an axis, sorted."""
        alive = np.ones(self.shapes[path][axis], bool)
        for group, member in self.on_axis(path, axis):
            if group.name in keeps:
                dead = np.setdiff1d(np.arange(group.size), keeps[group.name])
                alive[member.index[dead].reshape(-1)] = False
        return np.flatnonzero(alive)

    def shrunk(self, keeps: Keeps) -> Groups:
        """The groups of the model after a cut: smaller sizes, positions and costs counted anew.

        Args:
          keeps: group name -> sorted indices of the surviving units; a missing name keeps all.

        Raises:
          ValueError: for keeps that `check_keeps` refuses, or that leave the units of a group
            unequal numbers of positions on an axis.
        """
        keeps = self.check_keeps(keeps)
        ranks: dict[tuple[Path, int], np.ndarray] = {}
        for path, axis in self._by_axis:
            kept = self.positions(path, axis, keeps)
            ranks[path, axis] = rank = np.full(self.shapes[path][axis], -1)
            rank[kept] = np.arange(kept.size)
        groups = []
        for g in self.groups:
            keep = keeps.get(g.name, np.arange(g.size))
            members = []
            for m in g.members:
                index = _left(ranks[m.path, m.axis][m.index[keep]], g, m)
                members.append(dataclasses.replace(m, index=index))
            blocks = keeps.get(g.block_group, np.arange(g.blocks)).size
            groups.append(
                dataclasses.replace(g, size=keep.size, members=tuple(members), blocks=blocks)
            )
        shapes = self.shapes_after(keeps)
        work = tuple(product.shrunk(keeps) for product in self.work)
        small = dataclasses.replace(self, groups=tuple(groups), shapes=shapes, work=work)
        return small._costed()

    def shapes_after(self, keeps: Keeps) -> dict[Path, tuple[int, ...]]:
        """The shape of every leaf and input after a cut.

        Raises:
          ValueError: for keeps that `check_keeps` refuses.
        """
        keeps = self.check_keeps(keeps)
        shapes = {path: list(shape) for path, shape in self.shapes.items()}
        for path, axis in self._by_axis:
            shapes[path][axis] = self.positions(path, axis, keeps).size
        return {path: tuple(shape) for path, shape in shapes.items()}

    def describe(self) -> str:
        """A table of the groups and of the axes that stay whole, for a person to read."""
        return table(self)


def _left(index: np.ndarray, group: Group, member: Member) -> np.ndarray:
    """int[units, fewer]: an index map without the positions that went, -1, whatever their column.

    What goes with a unit are also positions that others hold: of another group on this axis, or of
    this one, where a unit meets another in an outer product.
    """
    alive = index >= 0
    count = alive.sum(1)
    if (count != count[0]).any():
        raise ValueError(
            f"the units of group {group.name!r} would hold {count.min()} to {count.max()} "
            f"positions on axis {member.axis} of {member.path!r}; cut the model with these keeps "
            "and find the groups of what is left anew"
        )
    return index[alive].reshape(len(index), -1)
