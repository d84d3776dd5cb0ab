"""Surgery: keeps -> smaller pytrees, and a function that runs on them.

>>> import jax.numpy as jnp, numpy as np
>>> from dynhp_jax.groups import find_groups
>>> def apply(params, x):
...     return jnp.tanh(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
>>> groups = find_groups(apply, params, jnp.ones((4, 2)))
>>> small = cut(params, groups, {"a": np.array([0, 2])})
>>> small["a"].shape, small["b"].shape
((2, 2), (2, 1))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from dynhp_jax.groups import Groups, Keeps
from dynhp_jax.jaxprs.evaluate import Run
from dynhp_jax.jaxprs.shardings import evenly, take
from dynhp_jax.jaxprs.trace import Path, Traced, abstract_of_shape, of_variables, path_name, trace
from dynhp_jax.members import mismatch
from dynhp_jax.unit_atoms import unit_atoms, unit_blocks


def plan(groups: Groups, keeps: Keeps) -> dict[str, tuple[tuple[int, np.ndarray], ...]]:
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
    cuts = plan(groups, keeps)
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


def resized(apply: Callable, variables: Any, groups: Groups, keeps: Keeps) -> Callable:
    """The apply function of a model after a cut, for a model that cannot be rebuilt smaller.

    The function is traced at its original sizes and run at the smaller ones, so that modules which
    check their parameters' shapes (Linen), or have sizes written into them, need not know.

    Args:
      apply: `apply(variables, *inputs) -> outputs` of the model before any cut.
      variables: its variables (or `jax.ShapeDtypeStruct`s) before any cut.
      groups: from `find_groups` on them.
      keeps: the surviving units, counted in the model before any cut.

    Returns:
      `f(small_variables, *inputs) -> outputs`; inputs may be whole or already cut. A mean over
      units divides by the number of all, of which those that are gone are zero; where their group
      is not exact, by the number of those that survive. Other constants that were computed from a
      size, such as the scale of an attention's logits, stay the original's.

    Raises:
      ValueError: for keeps that are not allowed, or variables that are not those before the cut;
        when called, for variables of other shapes, for
        inputs that are neither whole nor cut, or for a function in which the units must stay.
    """
    keeps = groups.check_keeps(keeps)
    small_shapes = groups.shapes_after(keeps)
    before = jax.tree_util.tree_leaves_with_path(variables)
    check_tree([(path_name(path), np.shape(leaf)) for path, leaf in before], groups.shapes)
    shapes = jax.tree.map(np.shape, variables)
    cuts = plan(groups, keeps)

    def small_apply(small_variables: Any, *inputs: Any) -> Any:
        leaves = jax.tree_util.tree_leaves_with_path(small_variables)
        check_tree([(path_name(path), np.shape(leaf)) for path, leaf in leaves], small_shapes)
        # The dtypes are those of now: parameters may have been cast since the groups were found.
        whole = jax.tree.map(abstract_of_shape, small_variables, shapes)
        whole_inputs, small_inputs = _inputs(inputs, groups, cuts)
        traced = trace(apply, whole, whole_inputs)
        inexact = {name: keep for name, keep in keeps.items() if not groups[name].exact}
        dead, uncounted = (
            dead_atoms(traced, groups, some) if some else None for some in (keeps, inexact)
        )
        run = Run(traced.walk, dead, uncounted=uncounted)
        for path, axes in of_variables(traced.leaves).items():
            if tuple(run.size(axis) for axis in axes) != small_shapes[path]:
                raise ValueError(
                    f"this function couples the axes of {path!r} in another way than the one "
                    "that the groups were found on; find the groups on this one"
                )
        out = run(traced.analysis, [leaf for _, leaf in leaves] + jax.tree.leaves(small_inputs))
        return jax.tree.unflatten(traced.out_tree, out)

    return small_apply


def dead_atoms(traced: Traced, groups: Groups, keeps: Keeps) -> np.ndarray:
    """The atoms of the units that do not survive, in a trace of the model before the cut."""
    whole, every = traced.labels.pinned(), []
    for name, keep in keeps.items():
        if groups[name].blocks > 1:
            dead = _last_places(traced, groups, keeps, name)
        else:
            units, atoms = unit_atoms(traced, groups[name])
            dead = np.unique(atoms[~np.isin(units, keep)])
        held = next((a for a in dead.tolist() if a in whole), None)
        if held is not None:
            raise ValueError(
                f"group {name!r} stays whole in this function ({whole[held]}); resize it where "
                "it is exact, or rebuild the module"
            )
        every.append(dead)
    return np.concatenate(every)


def _last_places(traced: Traced, groups: Groups, keeps: Keeps, name: str) -> np.ndarray:
    """The atoms of the places that blocks lose, as if the units that stay were the first ones.

    Whichever stay in a block, they have its first places afterwards.
    """
    group = groups[name]
    blocks = keeps.get(group.block_group, np.arange(group.blocks)).size
    if group.size == group.blocks:  # one unit each: they go with their blocks
        return np.empty(0, np.int64)
    return unit_blocks(traced, group).inner[keeps[name].size // blocks :]


def _inputs(inputs: tuple, groups: Groups, cuts: dict) -> tuple[tuple, tuple]:
    """(shapes before the cut, arrays after it) of the inputs, which may come whole or cut.

    Raises:
      ValueError: for an input of another size.
    """

    def shape(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        name, full = "inputs/" + path_name(path), list(np.shape(leaf))
        for axis, kept in cuts.get(name, ()):
            before = groups.shapes[name]
            if len(full) != len(before) or full[axis] not in (before[axis], kept.size):
                raise ValueError(
                    f"input {name!r} has shape {np.shape(leaf)}; allowed on axis {axis} of "
                    f"{len(before)}: {before[axis]} (whole) or {kept.size} (cut)"
                )
            full[axis] = before[axis]
        return abstract_of_shape(leaf, tuple(full))

    def small(path: Any, leaf: Any) -> Any:
        for axis, kept in cuts.get("inputs/" + path_name(path), ()):
            if np.shape(leaf)[axis] != kept.size:
                leaf = take(leaf, kept, axis)
        return leaf

    whole = jax.tree_util.tree_map_with_path(shape, inputs)
    return whole, jax.tree_util.tree_map_with_path(small, inputs)
