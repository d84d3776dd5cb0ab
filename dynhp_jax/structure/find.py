"""`find_groups`: the units of a model that live and die together, read from its jaxpr.

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

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import InputPath, Path
from dynhp_jax.jaxprs.blocks import Blocks, joined
from dynhp_jax.jaxprs.labels import axis_size
from dynhp_jax.jaxprs.trace import Traced, trace
from dynhp_jax.jaxprs.zeros import flag_sums
from dynhp_jax.structure.costs import Work, WorkAxis, costed
from dynhp_jax.structure.equal_blocks import in_blocks
from dynhp_jax.structure.group import EXPERT, HIDDEN, INPUT, VOCABULARY, Group, Member, Pinned
from dynhp_jax.structure.groups import Groups

STATISTICS = ("left", "whole")


def find_groups(apply: Callable, variables: Any, *inputs: Any, statistics: str = "left") -> Groups:
    """Finds the groups of any model from the jaxpr of its apply function.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, pure; use the one for evaluation (no dropout,
        stored batch statistics). Outputs are never cut.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: example inputs, likewise; axis 0 of the first array is the batch axis.
      statistics: what a normalisation that subtracts a mean looks at once units are gone. 'left':
        the units that are left, so that groups under it are not exact. 'whole': all of them, the
        gone ones as zeros, so that groups under it are exact if its mean and variance are made of
        the sums of the units and of their squares (Flax's LayerNorm and GroupNorm), and not of
        the squares of what is left when the mean is subtracted.

    Returns:
      The groups, those of the input features among them ('input').

    Raises:
      ValueError: if the function has side effects or needs concrete values.
      UserError: for other `statistics`.
    """
    if statistics not in STATISTICS:
        allowed = ", ".join(map(repr, STATISTICS))
        raise UserError(f"statistics is {statistics!r}; allowed: {allowed}")
    traced = trace(apply, variables, inputs)
    for value in traced.analysis.outputs:
        traced.walk.pin(value, "an output")
    groups, pinned, work = collect(traced, whole_statistics=statistics == "whole")
    return Groups(groups, traced.shapes, traced.dtypes, pinned, dict(traced.walk.unknown), work)


def collect(
    traced: Traced, whole_statistics: bool = False
) -> tuple[tuple[Group, ...], tuple[Pinned, ...], tuple[Work, ...]]:
    """The groups of an analysis, in the order in which their units are produced; what is in none.

    The third result is the work of a forward pass that the units have a part in.

    A unit is an atom that need not survive. Units that were born on one axis (or on axes that
    meet) and that occur on the same axes of the variables form a group.
    """
    labels = traced.labels
    used = {v for eqn in traced.analysis.jaxpr.eqns for v in eqn.invars if not hasattr(v, "val")}
    used |= {v for v in traced.analysis.jaxpr.outvars if not hasattr(v, "val")}
    var_of = dict(zip(traced.leaves, traced.analysis.jaxpr.invars, strict=True))
    where: list[tuple[Path, int]] = []  # leaf and axis, by axis id
    columns = [np.empty((3, 0), np.int64)]  # axis id, position, atom
    pinned: list[Pinned] = []
    for path, axes in traced.leaves.items():
        for axis, digits in enumerate(axes):
            if var_of[path] not in used:
                pinned.append(Pinned(path, axis, traced.shapes[path][axis], "not used by apply"))
                continue
            positions, atoms = labels.axis_pairs(digits)
            columns.append(np.stack([np.full_like(atoms, len(where)), positions, atoms]))
            where.append((path, axis))
    pairs = np.concatenate(columns, axis=1)
    reasons = labels.pinned()
    stays = np.isin(pairs[2], np.fromiter(reasons, np.int64, len(reasons)))
    pinned += _pinned(where, pairs, stays, reasons)
    inputs = [isinstance(path, InputPath) for path in traced.leaves]
    free = np.unique(pairs[2, ~stays])
    flag_sums(traced.walk, traced.analysis, inputs, free, whole_statistics)
    collector = _Collector(traced, where)
    found = [
        collector.group(part)
        for part in _partition(labels.families(), pairs[:, ~stays], len(where))
        if any(not isinstance(where[i][0], InputPath) for i in np.unique(part[0]))
    ]
    found.sort(key=lambda each: each[0])
    groups = _unique_names([group for _, group, _ in found])
    units = {g.name: units for g, (*_, units) in zip(groups, found, strict=True)}
    groups, units = in_blocks(traced, groups, units)
    work = _work(traced, units)
    groups = tuple(costed(group, traced.shapes, traced.dtypes, work) for group in groups)
    return groups, tuple(pinned), work


def _work(traced: Traced, units: Mapping[str, np.ndarray | Blocks]) -> tuple[Work, ...]:
    """The matrix products and convolutions that units (name -> atoms, blocks) have a part in."""
    labels, names = traced.labels, list(units)
    owner = np.full(len(labels), -1)  # by atom: which group, which of its units
    unit = np.full(len(labels), -1)
    blocks = {name: atoms for name, atoms in units.items() if isinstance(atoms, Blocks)}
    for k, (name, atoms) in enumerate(units.items()):
        if name not in blocks:
            owner[atoms], unit[atoms] = k, np.arange(atoms.size)
    found = []
    for contraction in traced.walk.contractions:
        axes = []
        for axis in joined(labels, contraction.axes, blocks.values()):
            at, atoms = labels.axis_pairs(axis)
            pairs = np.stack([unit[atoms], at])
            held = {
                names[k]: pairs[:, owner[atoms] == k] for k in np.unique(owner[atoms]) if k >= 0
            }
            for name, each in blocks.items():
                positions, numbers = each.on(labels, axis)
                if positions.size:
                    held[name] = np.stack([numbers, positions])
            axes += [WorkAxis(axis_size(axis), held)] if held else []
        found += [Work(contraction.flops, tuple(axes))] if axes else []
    return tuple(found)


def _pinned(
    where: list[tuple[Path, int]], pairs: np.ndarray, stays: np.ndarray, reasons: dict[int, str]
) -> list[Pinned]:
    """Positions that nothing can cut, by axis and reason."""
    found = []
    for axis_id in np.unique(pairs[0, stays]):
        here = pairs[0] == axis_id
        path, axis = where[axis_id]
        # A position that also depends on a unit can be cut with it.
        whole = here & stays & ~np.isin(pairs[1], pairs[1, here & ~stays])
        places: dict[str, set[int]] = {}
        for position, atom in pairs[1:, whole].T.tolist():
            places.setdefault(reasons[atom], set()).add(position)
        if isinstance(path, InputPath):
            places.pop("the batch axis", None)
        found += [Pinned(path, axis, len(at), reason) for reason, at in places.items()]
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
    edge = np.flatnonzero((family[1:] != family[:-1]) | (sign[1:] != sign[:-1])) + 1
    return [pairs[:, np.sort(part)] for part in np.split(order, edge)]


class _Collector:
    """Makes groups out of atoms; holds what is looked up for each of them."""

    def __init__(self, traced: Traced, where: list[tuple[Path, int]]):
        self.traced, self.where = traced, where
        labels = traced.labels
        self.flags = labels.flagged()
        joined = traced.walk.joined
        self.joined = set(labels.leaves(np.concatenate(joined)).tolist()) if joined else set()
        self.chosen = labels.chosen()
        self.roles: dict[int, list[tuple[int, Path, str]]] = {}  # by atom: order, leaf, role
        for order, (path, role, atoms) in enumerate(traced.walk.roles):
            for atom in labels.leaves(atoms).tolist():
                self.roles.setdefault(atom, []).append((order, path, role))

    def group(self, pairs: np.ndarray) -> tuple[tuple, Group, np.ndarray]:
        """(sort key: order of production, place; group; its units) for the pairs [3, n] of one."""
        axis_ids, positions, atoms = pairs
        places = [self.where[i] for i in np.unique(axis_ids)]
        roles = self._roles_of(atoms[0], {path for path, _ in places})
        made = [(order, path) for order, path, role in roles if role == "out"]
        born, producer = min(made, default=(min((r[0] for r in roles), default=-1), None))
        # Units are numbered as their producer lays them out: along the last of its axes.
        reference = max((p for p in places if p[0] == producer), default=places[0])
        at = axis_ids == self.where.index(reference)
        _, first = np.unique(atoms[at], return_index=True)
        units = atoms[at][np.sort(first)]
        rank = np.empty(len(self.traced.labels), np.int64)
        rank[units] = np.arange(units.size)
        members = []
        for axis_id, (path, axis) in zip(np.unique(axis_ids), places, strict=True):
            at = axis_ids == axis_id
            order = np.lexsort((positions[at], rank[atoms[at]]))
            index = positions[at][order].reshape(units.size, -1)
            shared = np.unique(index).size < index.size
            members.append(Member(path, axis, index, _role(roles, places, path, axis), shared))
        found = dict.fromkeys(r for unit in units.tolist() for r in self.flags.get(unit, ()))
        reasons = tuple(dict.fromkeys(map(str, found)))
        chosen: dict[str, int] = {}
        for unit in units.tolist():
            for how, least in self.chosen.get(unit, {}).items():
                chosen[how] = max(chosen.get(how, 1), least)
        group = Group(
            name=self._name(members, producer),
            size=units.size,
            members=tuple(members),
            exact=not reasons,
            reasons=reasons,
            kind=EXPERT if chosen else self._kind(members, units),
            chosen=tuple(chosen),
            least=min(max(chosen.values(), default=1), units.size),
        )
        first = members[places.index(reference)].index[0].tolist()
        return (born, *reference, first), group, units

    def _roles_of(self, unit: int, paths: set[Path]) -> list[tuple[int, Path, str]]:
        # A leaf that was joined with a member before it met the data is none itself.
        return [role for role in self.roles.get(int(unit), ()) if role[1] in paths]

    def _kind(self, members: list[Member], units: np.ndarray) -> str:
        roles = {member.role for member in members}
        if "data" in roles:
            return INPUT
        # Only kernels know these units, and none of them meets another leaf there: what they are
        # multiplied with was made of the inputs.
        given = roles == {"in"} and self.joined.isdisjoint(units.tolist())
        return VOCABULARY if given else HIDDEN

    def _name(self, members: list[Member], producer: Path | None) -> str:
        if any(m.role == "data" for m in members):
            return "input"
        path = producer or members[0].path
        box = path.removesuffix("value")  # NNX variables and Linen's boxes hold one leaf: 'value'
        if box.endswith("/") and sum(p.startswith(box) for p in self.traced.leaves) == 1:
            path = box[:-1]
        path = path.removeprefix("params/")
        head, _, _ = path.rpartition("/")
        return head or path


def _role(roles: list, places: list[tuple[Path, int]], path: Path, axis: int) -> str:
    if isinstance(path, InputPath):
        return "data"
    here = {role for _, p, role in roles if p == path}
    axes = [a for p, a in places if p == path]
    if here == {"in", "out"} and len(axes) > 1:  # a recurrent matrix: the last axis is produced
        return "out" if axis == max(axes) else "in"
    return "in" if "in" in here else "out" if "out" in here else "with"


def _unique_names(groups: list[Group]) -> tuple[Group, ...]:
    """Numbers the groups of one module: `query:1` (heads), `query:2` (their size)."""
    total, seen = collections.Counter(g.name for g in groups), collections.Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        one = total[group.name] == 1
        name = group.name if one else f"{group.name}:{seen[group.name]}"
        named.append(dataclasses.replace(group, name=name))
    return tuple(named)
