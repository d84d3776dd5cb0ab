"""From whole arrays of all nodes to the smaller ones of a size class, and back; traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.tree_paths import InputPath, path_name
from dynhp_jax.structure.counts import alive_positions
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.surgery.cut import axis_cuts

Positions = dict[str, dict[int, Any]]  # {path: {axis: i32[nodes, positions]}}


def positions_of(groups: Groups, keeps: list[UnitKeeps]) -> tuple[Positions, Positions]:
    """The positions that the arrays of some nodes of the same widths have, of variables and inputs.

    Args:
      groups: of the whole network.
      keeps: of every node.
    """
    cuts = [axis_cuts(groups, each) for each in keeps]
    found: tuple[Positions, Positions] = ({}, {})
    for path in cuts[0]:
        axes = [dict(each[path]) for each in cuts]
        stacked = {axis: np.stack([each[axis] for each in axes]).astype(np.int32)
                   for axis in axes[0]}  # fmt: skip
        found[isinstance(path, InputPath)][str(path)] = stacked
    return found


def smaller(variables: Any, positions: Positions) -> Any:
    """The part of one node's whole arrays that it computes with."""

    def one(path, leaf):
        for axis, kept in positions.get(path_name(path), {}).items():
            leaf = jnp.take(leaf, kept, axis)
        return leaf

    return jax.tree_util.tree_map_with_path(one, variables)


def whole(variables: Any, positions: Positions, shapes: Any) -> Any:
    """The whole arrays of one node, zeros where it has nothing; undoes `smaller`."""

    def one(path, leaf, shape):
        for axis, kept in positions.get(path_name(path), {}).items():
            sizes = (*leaf.shape[:axis], shape.shape[axis], *leaf.shape[axis + 1 :])
            leaf = jnp.zeros(sizes, leaf.dtype).at[(slice(None),) * axis + (kept,)].set(leaf)
        return leaf

    return jax.tree_util.tree_map_with_path(one, variables, shapes)


def masks_of(groups: Groups, variables: Any, alive: dict[str, jax.Array]) -> Any:
    """Masks of all nodes as rules of aggregation take them, a tuple in place of each array.

    Args:
      groups: of the whole network.
      variables: of all nodes; shapes are enough.
      alive: {group: f32[nodes, units]}.
    """
    axes: dict[str, set[int]] = {}
    for group in groups.groups:
        for member in group.members:
            if not isinstance(member.path, InputPath):
                axes.setdefault(member.path, set()).add(member.axis)

    def one(path, leaf):
        name = path_name(path)

        def mask(axis):
            each = jax.vmap(lambda mine: alive_positions(groups, name, axis, mine))(alive)
            sizes = [len(each), *[1] * (leaf.ndim - 1)]
            sizes[axis + 1] = each.shape[1]
            return each.reshape(sizes)

        return tuple(mask(axis) for axis in sorted(axes.get(name, ())))

    return jax.tree_util.tree_map_with_path(one, variables)
