"""Surgery: keeps -> smaller pytrees, and a function that runs on them.

>>> import jax.numpy as jnp, numpy as np
>>> from dynhp_jax import find_groups
>>> def apply(params, x):
...     return jnp.tanh(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
>>> groups = find_groups(apply, params, jnp.ones((4, 2)))
>>> small = cut(params, groups, {"a": np.array([0, 2])})
>>> small["a"].shape, small["b"].shape
((2, 2), (2, 1))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from dynhp_jax.common.tree_paths import Path, of_variables, path_name
from dynhp_jax.jaxprs.shardings import evenly, take
from dynhp_jax.structure.group import mismatch
from dynhp_jax.structure.groups import Groups, Keeps


def axis_cuts(groups: Groups, keeps: Keeps) -> dict[str, tuple[tuple[int, np.ndarray], ...]]:
    """Which positions of which axes survive: path -> ((axis, positions), ...), if any are lost.

    Raises:
      ValueError: for keeps that `Groups.check_keeps` refuses.
    """
    keeps = groups.check_keeps(keeps)
    axes = {(m.path, m.axis) for g in groups.groups if g.name in keeps for m in g.members}
    found: dict[str, list] = {}
    for path, axis in sorted(axes):
        kept = groups.positions(path, axis, keeps)
        found.setdefault(path, []).append((axis, kept))
    return {path: tuple(cuts) for path, cuts in found.items()}


def cut_leaf(leaf: Any, cuts: tuple[tuple[int, np.ndarray], ...]) -> Any:
    """The surviving part of one array, where the array lies.

    A NumPy array stays one; a traced array is gathered; one on several devices stays split.
    """
    if isinstance(leaf, jax.core.Tracer):
        for axis, positions in cuts:
            leaf = take(leaf, positions, axis)
        return leaf
    # On the host: surgery meets each shape once, and compiling a gather takes longer than a copy.
    keys = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    small = np.asarray(jax.random.key_data(leaf) if keys else leaf)
    for axis, positions in cuts:
        small = np.take(small, positions, axis=axis)
    if not isinstance(leaf, jax.Array):
        return small if isinstance(leaf, np.ndarray) else jnp.asarray(small)
    if keys:
        small = jax.random.wrap_key_data(small, impl=jax.random.key_impl(leaf))
    return jax.device_put(small, _placement(leaf, small.shape))


def _placement(leaf: jax.Array, shape: tuple[int, ...]) -> Sharding | None:
    """Devices and memory for a smaller array; None stands for the default device."""
    where = leaf.sharding
    if not leaf.committed:
        return None
    if isinstance(where, NamedSharding):
        return evenly(where, leaf.shape, shape)
    return where if where.is_fully_replicated else None


def cut(tree: Any, groups: Groups, keeps: Keeps) -> Any:
    """Cuts units out of a pytree: variables, gradients, averages of weights, batch statistics.

    Args:
      tree: pytree with the leaf paths of the groups' variables (for a subtree, use `groups.at`).
      groups: from `find_groups`.
      keeps: group name -> sorted indices of the surviving units; a missing name keeps all.

    Returns:
      The smaller tree, of the same structure. Nothing is changed in place; a leaf that loses
      nothing is the given tree's own (a step that donates its arguments deletes both). Arrays
      that were put on devices stay there, in the same kind of memory and split as they are
      (`NamedSharding`); an axis that can no longer be split evenly is whole on each of them. Inside
      `jax.jit` that holds for the explicit axes of a mesh; of others XLA decides.

    Raises:
      ValueError: for keeps that are not allowed, or a tree that does not match the groups: a leaf
        that they do not know, one of another shape, or one missing.
    """
    cuts = axis_cuts(groups, keeps)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    check_tree([(path_name(path), np.shape(leaf)) for path, leaf in leaves], groups.shapes)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            cut_leaf(leaf, cuts[path_name(path)]) if path_name(path) in cuts else leaf
        ),
        tree,
    )


def check_tree(
    leaves: list[tuple[Path, tuple[int, ...]]], shapes: Mapping[Path, tuple[int, ...]]
) -> None:
    """Raises ValueError unless the leaves (path, shape) are the variables of a groups' shapes."""
    known = of_variables(shapes)
    for path, shape in leaves:
        if path not in known:
            raise ValueError(
                f"the tree has a leaf {path!r} that the groups do not know; expected leaves like "
                f"{next(iter(known), 'none')!r} (for a subtree use groups.at(prefix))"
            )
        if tuple(shape) != tuple(known[path]):
            raise ValueError(mismatch(path, shape, known[path]))
    missing = sorted(set(known) - {path for path, _ in leaves})
    if missing:
        raise ValueError(
            f"the tree lacks leaf {missing[0]!r}, which holds units; cut the whole tree at once"
        )
