"""Groups: the units of a model that live and die together, read from its jaxpr.

>>> import jax, jax.numpy as jnp
>>> def apply(params, x):  # [batch, 4] -> [batch, 2]
...     return jax.nn.relu(x @ params["in"]) @ params["out"]
>>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((3, 2))}
>>> groups = find_groups(apply, params, jnp.ones((8, 4)))
>>> list(groups)
['input', 'in']
>>> [(m.path, m.axis) for m in groups["in"].members]
[('in', 1), ('out', 0)]
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynhp_jax.jaxprs.trace import Path, Traced, bytes_of, trace

Keeps = Mapping[str, np.ndarray]


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


@dataclasses.dataclass(frozen=True, eq=False)
class Groups(Mapping[str, Group]):
    """All groups of a model, in the order in which their units are produced.

    Attributes:
      shapes: shape of every leaf of the variables and of every input, by path.
      dtypes: their dtypes.
      pinned: the axes that are in no group.
      unknown: primitives without a rule -> number of equations.
    """

    groups: tuple[Group, ...]
    shapes: Mapping[Path, tuple[int, ...]]
    dtypes: Mapping[Path, Any]
    pinned: tuple[Pinned, ...] = ()
    unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        near = difflib.get_close_matches(str(name), list(self), n=3, cutoff=0.3)
        raise KeyError(f"no group {name!r}; nearest: {', '.join(near or list(self)) or 'none'}")

    def __iter__(self) -> Iterator[str]:
        return (group.name for group in self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the groups that can be cut exactly and have more than one unit."""
        return tuple(g.name for g in self.groups if g.exact and g.size > 1)

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
            if name not in tuple(self):
                near = difflib.get_close_matches(str(name), list(self), n=3, cutoff=0.3)
                raise ValueError(
                    f"no group {name!r}; nearest: {', '.join(near or list(self)) or 'none'}"
                )

    def at(self, prefix: str) -> Groups:
        """The same groups for the subtree at a path: `at('params')` for `variables['params']`."""
        start = prefix + "/"
        groups = tuple(
            dataclasses.replace(
                g,
                members=tuple(
                    dataclasses.replace(m, path=m.path.removeprefix(start))
                    for m in g.members
                    if m.path.startswith(start)
                ),
            )
            for g in self.groups
        )
        return dataclasses.replace(
            self,
            groups=groups,
            shapes={
                k.removeprefix(start): s for k, s in self.shapes.items() if k.startswith(start)
            },
            dtypes={
                k.removeprefix(start): s for k, s in self.dtypes.items() if k.startswith(start)
            },
            pinned=tuple(
                dataclasses.replace(p, path=p.path.removeprefix(start))
                for p in self.pinned
                if p.path.startswith(start)
            ),
        )

    def tie(self, path: Path, axis: int, name: str, shape: tuple[int, ...] | None = None) -> Groups:
        """With one more leaf whose `axis` holds the units of group `name` one to one.

        So that one cut covers arrays that the model does not know: gates, masks, counts.
        """
        group = self[name]
        member = Member(path, axis, np.arange(group.size)[:, None], "with")
        groups = tuple(
            dataclasses.replace(g, members=(*g.members, member)) if g is group else g
            for g in self.groups
        )
        shapes = {**self.shapes, path: shape or (group.size,)}
        dtypes = {**self.dtypes, path: np.dtype(np.float32)}
        return dataclasses.replace(self, groups=groups, shapes=shapes, dtypes=dtypes)

    def on_axis(self, path: Path, axis: int) -> list[tuple[Group, Member]]:
        """The groups that have units on an axis."""
        return [(g, m) for g in self.groups for m in g.members if m.path == path and m.axis == axis]

    def check_keeps(self, keeps: Keeps) -> dict[str, np.ndarray]:
        """The keeps as int arrays, one for each group that loses units.

        Raises:
          ValueError: for an unknown group, or indices that are not sorted, repeated, out of range
            or none at all.
        """
        self.check_names(list(keeps))
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
            if (np.diff(keep) <= 0).any():
                raise ValueError(f"keep of group {name!r} is not sorted or repeats a unit; sort it")
            if keep[0] < 0 or keep[-1] >= size:
                raise ValueError(
                    f"keep of group {name!r} holds {int(keep[0] if keep[0] < 0 else keep[-1])}; "
                    f"allowed: 0 to {size - 1}"
                )
            if keep.size < size:
                checked[name] = keep.astype(np.int64)
        return checked

    def positions(self, path: Path, axis: int, keeps: Keeps) -> np.ndarray:
        """Surviving positions of an axis, sorted."""
        alive = np.ones(self.shapes[path][axis], bool)
        for group, member in self.on_axis(path, axis):
            if group.name in keeps:
                dead = np.setdiff1d(np.arange(group.size), keeps[group.name])
                alive[member.index[dead].reshape(-1)] = False
        return np.flatnonzero(alive)

    def shrunk(self, keeps: Keeps) -> Groups:
        """The groups of the model after a cut: smaller sizes, positions counted anew."""
        keeps = self.check_keeps(keeps)
        ranks: dict[tuple[Path, int], np.ndarray] = {}
        shapes = {k: list(s) for k, s in self.shapes.items()}
        for g in self.groups:
            for m in g.members:
                if (m.path, m.axis) not in ranks:
                    kept = self.positions(m.path, m.axis, keeps)
                    rank = np.full(self.shapes[m.path][m.axis], -1)
                    rank[kept] = np.arange(kept.size)
                    ranks[m.path, m.axis] = rank
                    shapes[m.path][m.axis] = kept.size
        groups = []
        for g in self.groups:
            keep = keeps.get(g.name, np.arange(g.size))
            members = []
            for m in g.members:
                index = ranks[m.path, m.axis][m.index[keep]]
                # Other groups on this axis may have taken positions from every unit alike.
                index = index[:, (index >= 0).all(0)]
                members.append(dataclasses.replace(m, index=index))
            groups.append(dataclasses.replace(g, size=keep.size, members=tuple(members)))
        return dataclasses.replace(
            self, groups=tuple(groups), shapes={k: tuple(s) for k, s in shapes.items()}
        )

    def describe(self) -> str:
        """A table of the groups and of the axes that stay whole, for a person to read."""
        from dynhp_jax.describe import table

        return table(self)


def find_groups(apply: Callable, variables: Any, *inputs: Any) -> Groups:
    """Finds the groups of any model from the jaxpr of its apply function.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, pure; use the one for evaluation (no dropout,
        stored batch statistics). Outputs are never cut.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: example inputs, likewise; axis 0 of the first array is the batch axis.

    Returns:
      The groups, those of the input features among them ('input').

    Raises:
      ValueError: if the function has side effects or needs concrete values.
    """
    traced = trace(apply, variables, inputs)
    for value in traced.analysis.outputs:
        traced.walk.pin(value, "an output")
    return _collect(traced)


def _collect(traced: Traced) -> Groups:
    labels = traced.labels
    used = {v for eqn in traced.analysis.jaxpr.eqns for v in eqn.invars if not hasattr(v, "val")}
    used |= {v for v in traced.analysis.jaxpr.outvars if not hasattr(v, "val")}
    paths = dict(zip(traced.leaves, traced.analysis.jaxpr.invars, strict=True))
    where, columns = [], []  # (path, axis) by id; [3, pairs]: axis id, position, atom
    pinned_atoms, pinned = labels.pinned(), []
    for path, axes in traced.leaves.items():
        for axis, digits in enumerate(axes):
            if paths[path] not in used:
                pinned.append(Pinned(path, axis, traced.shapes[path][axis], "not used by apply"))
                continue
            positions, atoms = labels.axis_pairs(digits)
            columns.append(np.stack([np.full_like(atoms, len(where)), positions, atoms]))
            where.append((path, axis))
    if not columns:
        return Groups((), traced.shapes, traced.dtypes, tuple(pinned), traced.walk.unknown)
    axis_ids, positions, atoms = np.concatenate(columns, axis=1)
    is_pinned = np.isin(atoms, np.fromiter(pinned_atoms, np.int64, len(pinned_atoms)))
    pinned += _pinned_axes(where, axis_ids, positions, atoms, is_pinned, pinned_atoms)
    pairs = np.stack([axis_ids, positions, atoms])[:, ~is_pinned]
    groups = [
        _group(traced, where, part) for part in _partition(labels.families(), pairs, len(where))
    ]
    groups = [g for g in groups if any(m.role != "data" for m in g[1].members)]
    groups.sort(key=lambda g: g[0])
    return Groups(
        _unique_names([g for _, g in groups]),
        traced.shapes,
        traced.dtypes,
        tuple(pinned),
        dict(traced.walk.unknown),
    )


def _pinned_axes(where, axis_ids, positions, atoms, is_pinned, reasons) -> list[Pinned]:
    found = []
    for axis_id in np.unique(axis_ids[is_pinned]):
        free = positions[~is_pinned & (axis_ids == axis_id)]
        at = is_pinned & (axis_ids == axis_id) & ~np.isin(positions, free)
        if not at.any():  # a factor of an axis whose every position can still be cut
            continue
        path, axis = where[axis_id]
        if path.startswith("inputs/") and axis == 0 and reasons[int(atoms[at][0])].endswith("axis"):
            continue  # the batch axis
        count = np.unique(positions[at]).size
        found.append(Pinned(path, axis, count, reasons[int(atoms[at][0])]))
    return found


def _partition(families: np.ndarray, pairs: np.ndarray, axes: int) -> list[np.ndarray]:
    """Pairs [3, n] by group: atoms of one family that occur equally often on the same axes."""
    if pairs.shape[1] == 0:
        return []
    axis_ids, _, atoms = pairs
    # A random number per axis: the sum over an atom's places identifies the set of places.
    codes = np.random.default_rng(0).integers(0, 1 << 62, axes, dtype=np.uint64)
    signature = np.zeros(families.size, np.uint64)
    np.add.at(signature, atoms, codes[axis_ids])
    order = np.lexsort((signature[atoms], families[atoms]))
    family, sign = families[atoms][order], signature[atoms][order]
    edge = np.flatnonzero((np.diff(family) != 0) | (np.diff(sign.astype(np.int64)) != 0)) + 1
    return [pairs[:, part] for part in np.split(order, edge)]


def _group(traced: Traced, where: list, pairs: np.ndarray) -> tuple[tuple, Group]:
    """(order of production, group) for the pairs [3, n] of one group."""
    labels = traced.labels
    axis_ids, positions, atoms = pairs
    first = axis_ids == axis_ids.min()
    units = atoms[first][np.argsort(positions[first], kind="stable")]
    units = units[np.sort(np.unique(units, return_index=True)[1])]
    born, producer, roles = _roles(traced, units, {where[i][0] for i in np.unique(axis_ids)})
    reference = [i for i in np.unique(axis_ids) if where[i] == producer]
    if reference:  # units are numbered as their producer lays them out
        at = axis_ids == reference[0]
        units = atoms[at][np.argsort(positions[at], kind="stable")]
        units = units[np.sort(np.unique(units, return_index=True)[1])]
    rank = {int(atom): k for k, atom in enumerate(units)}
    members = []
    for axis_id in np.unique(axis_ids):
        at = axis_ids == axis_id
        path, axis = where[axis_id]
        unit = np.fromiter((rank[int(a)] for a in atoms[at]), np.int64, at.sum())
        order = np.lexsort((positions[at], unit))
        index = positions[at][order].reshape(len(units), -1)
        role = "data" if path.startswith("inputs/") else _axis_role(roles, path, axis, traced)
        members.append(Member(path, axis, index, role))
    flagged = traced_flags(traced)
    reasons = list(dict.fromkeys(r for a in units for r in flagged.get(int(a), ())))
    parameters, size = _unit_cost(traced, members)
    group = Group(
        name=_name(traced, members, producer),
        size=len(units),
        members=tuple(members),
        exact=not reasons,
        reasons=tuple(reasons),
        parameters=parameters,
        bytes=size,
        flops=_unit_flops(traced, labels.dead_mask(units), len(units)),
    )
    return (born, members[0].path), group


def traced_flags(traced: Traced) -> dict[int, list[str]]:
    """The labels' flags, computed once per analysis."""
    cache = traced.__dict__.setdefault("_flags", None)
    if cache is None:
        cache = traced.__dict__["_flags"] = traced.labels.flagged()
    return cache


def _role_index(traced: Traced) -> dict[int, list[tuple[int, str, str]]]:
    """atom -> (order, path, role), computed once per analysis."""
    index = traced.__dict__.get("_role_index")
    if index is None:
        index = traced.__dict__["_role_index"] = {}
        for order, (path, role, atoms) in enumerate(traced.walk.roles):
            for atom in np.unique(traced.labels.pairs(atoms)[1]):
                index.setdefault(int(atom), []).append((order, path, role))
    return index


def _roles(
    traced: Traced, units: np.ndarray, paths: set[Path]
) -> tuple[int, tuple[str, int], set]:
    """(order of production, producer's (path, axis), {(path, role)}) among the members' paths."""
    index, roles = _role_index(traced), set()
    born, producer = 1 << 60, ("", -1)
    for order, path, role in index.get(int(units[0]), ()):
        if path not in paths:  # joined with a member before it met the data
            continue
        roles.add((path, role))
        if role == "out" and order < born:
            born, producer = order, (path, -1)
    if producer[0]:
        for axis, digits in reversed(list(enumerate(traced.leaves[producer[0]]))):
            if np.isin(units[:1], traced.labels.axis_pairs(digits)[1]).all():
                producer = (producer[0], axis)
                break
    else:
        born = min((o for o, p, _ in index.get(int(units[0]), ()) if p in paths), default=-1)
    return born, producer, roles


def _axis_role(roles: set, path: Path, axis: int, traced: Traced) -> str:
    reads, makes = (path, "in") in roles, (path, "out") in roles
    if reads and makes:  # a recurrent matrix: by convention the last axis is produced
        return "out" if axis == len(traced.shapes[path]) - 1 else "in"
    return "in" if reads else "out" if makes else "with"


def _unit_cost(traced: Traced, members: list[Member]) -> tuple[float, float]:
    left: dict[Path, float] = {}
    for m in members:
        if m.role != "data":
            share = m.index.shape[1] / traced.shapes[m.path][m.axis]
            left[m.path] = left.get(m.path, 1.0) * (1.0 - share)
    numbers = {p: (1.0 - k) * float(np.prod(traced.shapes[p])) for p, k in left.items()}
    size = sum(
        n / max(np.prod(traced.shapes[p]), 1) * bytes_of(traced.shapes[p], traced.dtypes[p])
        for p, n in numbers.items()
    )
    return sum(numbers.values()), float(size)


def _unit_flops(traced: Traced, mine: np.ndarray, units: int) -> float:
    total = 0.0
    for flops, axes in _contraction_pairs(traced):
        left = 1.0
        for atoms, size in axes:
            left *= 1.0 - np.count_nonzero(mine[atoms]) / units / size
        total += flops * (1.0 - left)
    return total


def _contraction_pairs(traced: Traced) -> list:
    found = traced.__dict__.get("_contractions")
    if found is None:
        found = []
        for c in traced.walk.contractions:
            axes = []
            for axis in c.axes:
                positions, atoms = traced.labels.axis_pairs(axis)
                axes.append((atoms, int(positions.max()) + 1 if positions.size else 1))
            found.append((c.flops, axes))
        traced.__dict__["_contractions"] = found
    return found


def _name(traced: Traced, members: list[Member], producer: tuple[str, int]) -> str:
    if any(m.role == "data" for m in members):
        return "input"
    path = producer[0] or members[0].path
    box = path.removesuffix("value")  # NNX variables and Linen's boxes hold one leaf: 'value'
    if box.endswith("/") and sum(p.startswith(box) for p in traced.leaves) == 1:
        path = box[:-1]
    path = path.removeprefix("params/")
    head, _, _ = path.rpartition("/")
    return head or path


def _unique_names(groups: list[Group]) -> tuple[Group, ...]:
    named, counts = [], {}
    for group in groups:
        counts[group.name] = counts.get(group.name, 0) + 1
    seen: dict[str, int] = {}
    for group in groups:
        name = group.name
        if counts[name] > 1:
            seen[name] = seen.get(name, 0) + 1
            name = f"{name}:{seen[name]}"
        named.append(dataclasses.replace(group, name=name))
    return tuple(named)


def alive_positions(groups: Groups, path: Path, axis: int, alive: Mapping[str, Any]) -> Any:
    """f32[axis size]: one where a position of the axis survives; traceable.

    Args:
      groups: the groups.
      path: a leaf.
      axis: its axis.
      alive: name -> f32[units], one for a unit that survives; a missing name is all ones.
    """
    size = groups.shapes[path][axis]
    result = jnp.ones(size)
    for group, member in groups.on_axis(path, axis):
        if group.name in alive:
            unit = np.full(size, group.size)
            unit[member.index] = np.arange(group.size)[:, None]
            result = result * jnp.append(jnp.asarray(alive[group.name], jnp.float32), 1.0)[unit]
    return result


def _alive_count(groups: Groups, path: Path, axis: int, alive: Mapping[str, Any]) -> Any:
    if not any(g.name in alive for g, _ in groups.on_axis(path, axis)):
        return groups.shapes[path][axis]
    return jnp.sum(alive_positions(groups, path, axis, alive))


def fan_out(groups: Groups, alive: Mapping[str, Any]) -> dict[str, Any]:
    """How many surviving weights read each unit (the weight of its gate in the L0 penalty).

    Args:
      groups: the groups.
      alive: name -> f32[units] of ones and zeros; traceable.

    Returns:
      name -> f32[units].
    """
    out = {}
    for name, group in groups.items():
        total = jnp.zeros(group.size)
        for m in group.members:
            if m.role != "in":
                continue
            others = 1.0
            for axis in range(len(groups.shapes[m.path])):
                if axis != m.axis:
                    others = others * _alive_count(groups, m.path, axis, alive)
            here = alive_positions(groups, m.path, m.axis, alive)
            total = total + others * jnp.sum(here[m.index], axis=1)
        out[name] = total
    return out


def parameter_count(groups: Groups, alive: Mapping[str, Any], prefix: str = "params") -> Any:
    """Numbers that survive in the leaves below `prefix` (all variables: ''); traceable."""
    total = 0.0
    for path, shape in groups.shapes.items():
        if path.startswith("inputs/") or not path.startswith(prefix):
            continue
        count = 1.0
        for axis in range(len(shape)):
            count = count * _alive_count(groups, path, axis, alive)
        total = total + count
    return total
