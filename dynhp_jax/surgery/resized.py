"""A model's function for arrays that were cut, also of a model that cannot be built smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.tree_paths import of_variables, path_name
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.shardings import take
from dynhp_jax.jaxprs.trace import Traced, abstract_of_shape, trace
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.structure.unit_atoms import unit_atoms, unit_blocks
from dynhp_jax.surgery.cut import axis_cuts, check_tree


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
    cuts = axis_cuts(groups, keeps)

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
