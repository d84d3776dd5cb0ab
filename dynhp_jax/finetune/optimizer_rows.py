"""The optimizer's state of chosen rows, when others are chosen.

Initialised on the probes, an optimizer keeps a state of the chosen rows alone. At a new choice the
rows that stay keep theirs and new rows start with zeros (as an optimizer of the whole kernel that
had not met them). Which arrays of a state belong to which rows is found as in `cut_optimizer`.

An optimizer that corrects for its age (Adam: one count for all rows) would take a first step of
(1 - b1) / sqrt(1 - b2) times the rate, 3.2 times with the usual numbers, for rows that are younger
than the count. So such a state starts anew as a whole, unless `restart=False`; or each row has an
age of its own, with `by_row`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.tree_paths import Path, path_name
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.surgery import mirrors
from dynhp_jax.surgery.optimizer import REMEDY

_OF_NO_ROWS = -2  # instead of the number of a parameter; `mirrors.UNLIKE` is -1


class ByRow(NamedTuple):
    """The state of `by_row`: path -> the states of all rows, stacked along a first axis."""

    states: dict[Path, Any]


def by_row(
    tx: optax.GradientTransformation, rows: Mapping[Path, Rows]
) -> optax.GradientTransformation:
    """An optimizer in which every chosen row is a parameter by itself, with a count of its own.

    Schedules of the rate belong outside of it, as a row's count starts when it is chosen:
    `optax.chain(by_row(optax.scale_by_adam(), rows), optax.scale_by_learning_rate(schedule))`.

    Args:
      tx: the optimizer of one row.
      rows: path -> rows of the capacities that are used.
    """
    layouts = {path: each.layout for path, each in rows.items()}

    def init(params: Mapping[Path, Any]) -> ByRow:
        moved = {path: _rows_first(each, layouts[path]) for path, each in params.items()}
        return ByRow({path: jax.vmap(tx.init)(each) for path, each in moved.items()})

    def update(gradients: Mapping[Path, Any], state: ByRow, params: Any = None) -> tuple:
        updates, states = {}, {}
        for path, gradient in gradients.items():
            given = [_rows_first(gradient, layouts[path]), state.states[path]]
            if params is not None:
                given.append(_rows_first(params[path], layouts[path]))
            update, states[path] = jax.vmap(tx.update)(*given)
            updates[path] = _rows_back(update, layouts[path])
        return updates, ByRow(states)

    return optax.GradientTransformation(init, update)


def move(
    tx: optax.GradientTransformation,
    state: Any,
    probes: Mapping[Path, Any],
    old: Mapping[Path, Rows],
    new: Mapping[Path, Rows],
    restart: bool = True,
) -> Any:
    """The optimizer's state for another choice of rows; can be jitted.

    Args:
      tx: the optimizer: any that `cut_optimizer` takes, or `by_row`, alone or in a chain.
      state: its state, from `tx.init(probes)` and updates.
      probes: path -> array of the old rows, as given to `tx.init`; of kernels that have rows in
        `new` alone, of those.
      old: path -> the rows that the state belongs to.
      new: path -> the rows that it will belong to; perhaps of other capacities or kernels.
      restart: whether a part of the state that keeps both arrays of the rows and a count of steps
        starts anew as a whole; if not, its rows move as all others do, and the count goes on.

    Returns:
      The state for `new`: rows in both choices keep theirs, others start as in `tx.init`.

    Raises:
      ValueError: the state holds arrays whose shapes follow those of the probes and are not theirs.
    """
    types = {path: probe.dtype for path, probe in probes.items()}
    if old.keys() != new.keys():
        both = {**old, **new}
        before, after = ({p: rows.get(p, _no_rows(both[p])) for p in both} for rows in (old, new))
        wide = _with_leaves_of(tx.init(_zeros(before, types)), state)
        found = move(tx, wide, _zeros(before, types), before, after, restart)
        return _with_leaves_of(tx.init(_zeros(new, types)), found)
    paths = list(old)
    owners = _owners(tx, {path: probes[path] for path in paths}, old)
    fresh = tx.init(_zeros(new, types))
    places = {path: _places(old[path], new[path]) for path in paths}

    def moved(path: Path, leaf: Any, start: Any) -> Any:
        layout = old[path].layout
        rows = _gathered(_rows_first(leaf, layout), _rows_first(start, layout), places[path])
        return _rows_back(rows, layout)

    def each(state: Any, start: Any, owner: Any) -> Any:
        if isinstance(state, ByRow):
            return ByRow(
                {
                    path: jax.tree.map(
                        functools.partial(_gathered, places=places[path]),
                        state.states[path],
                        start.states[path],
                    )
                    for path in state.states
                }
            )
        if not isinstance(owner, int):
            if restart and _counts_steps(owner):
                return start
            children, structure = _children(state)
            starts, of_children = _children(start)[0], _children(owner)[0]
            found = map(each, children, starts, of_children)
            return structure.unflatten(list(found))
        return state if owner == _OF_NO_ROWS else moved(paths[owner], state, start)

    return each(state, fresh, owners)


def _zeros(rows: Mapping[Path, Rows], types: Mapping[Path, Any]) -> dict[Path, jax.Array]:
    return {
        path: jnp.zeros(each.layout.shape_of(each.capacity), types[path])
        for path, each in rows.items()
    }


def _no_rows(rows: Rows) -> Rows:
    return Rows(jnp.zeros(rows.layout.index_shape(0), jnp.int32), rows.layout)


def _with_leaves_of(state: Any, other: Any) -> Any:
    """A state with the leaves of another one wherever that has them."""
    found = dict(jax.tree_util.tree_leaves_with_path(other))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: found.get(path, leaf), state)


def _owners(
    tx: optax.GradientTransformation, probes: Mapping[Path, Any], rows: Mapping[Path, Rows]
) -> Any:
    """The state's structure with the number of the probe that an array is of, or _OF_NO_ROWS."""
    paths = list(probes)
    layouts = [rows[path].layout for path in paths]
    counts = [rows[path].capacity for path in paths]

    def shapes_of(shapes: list) -> list:
        params = {
            path: jax.ShapeDtypeStruct(shape, probes[path].dtype)
            for path, shape in zip(paths, shapes, strict=True)
        }
        leaves = jax.tree.leaves(jax.eval_shape(tx.init, params), is_leaf=_is_by_row)
        return [() if _is_by_row(leaf) else leaf.shape for leaf in leaves]

    larger, same = (
        [layout.shape_of(count + more) for layout, count in zip(layouts, counts, strict=True)]
        for more in (1, 0)
    )
    found = mirrors.find(shapes_of, larger, same)
    params = {path: jax.ShapeDtypeStruct(probes[path].shape, probes[path].dtype) for path in paths}
    state = jax.eval_shape(tx.init, params)
    places, structure = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_by_row)
    for (place, leaf), owner in zip(places, found, strict=True):
        if owner == mirrors.UNLIKE:
            raise ValueError(
                f"the optimizer's state {path_name(place)} has shape {list(leaf.shape)}, which"
                f" follows from the chosen rows but is not theirs, so it cannot be moved; {REMEDY}"
            )
    return structure.unflatten([_OF_NO_ROWS if owner is None else owner for owner in found])


def _counts_steps(owners: Any) -> bool:
    """Whether a node of a state holds both arrays of rows and a number of its own."""
    if not hasattr(owners, "_fields"):
        return False
    of_fields = [jax.tree.leaves(field) for field in owners]
    alone = any(field == _OF_NO_ROWS for field in owners)
    nested = any(hasattr(node, "_fields") for field in owners for node in _nodes(field))
    return alone and not nested and any(o >= 0 for leaves in of_fields for o in leaves)


def _nodes(tree: Any) -> list[Any]:
    """A node of a pytree and all nodes below it."""
    if isinstance(tree, int):
        return []
    return [tree, *(node for child in _children(tree)[0] for node in _nodes(child))]


def _children(node: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(node, is_leaf=lambda each: each is not node)


def _is_by_row(node: Any) -> bool:
    return isinstance(node, ByRow)


def _places(old: Rows, new: Rows) -> jax.Array:
    """i32[rows]: where each new row was among the old ones; past the end if nowhere."""
    before, after = (jnp.atleast_2d(jnp.asarray(rows.index)) for rows in (old, new))
    if not before.size:
        return jnp.zeros(after.size, jnp.int32)
    same = (after[:, :, None] == before[:, None, :]) & (after < old.layout.count)[:, :, None]
    first = jnp.arange(before.shape[0])[:, None] * before.shape[1]
    found = jnp.where(same.any(-1), first + jnp.argmax(same, -1), before.size)
    return found.reshape(-1)


def _gathered(leaf: Any, start: Any, places: jax.Array) -> Any:
    """Rows of a state along its first axis; those that come from nowhere from another state."""
    if not leaf.shape[0]:
        return start
    found = jnp.take(leaf, places, 0, mode="fill", fill_value=0)
    stays = (places < leaf.shape[0]).reshape(-1, *(1,) * (leaf.ndim - 1))
    return jnp.where(stays, found, start)


def _rows_first(array: Any, layout: RowLayout) -> Any:
    """[steps * rows, ...] of an array of chosen rows."""
    if not layout.steps:
        return jnp.moveaxis(array, layout.at, 0)
    array = jnp.moveaxis(array, layout.at, 1)
    return array.reshape(-1, *array.shape[2:])


def _rows_back(array: Any, layout: RowLayout) -> Any:
    """The way back."""
    if not layout.steps:
        return jnp.moveaxis(array, 0, layout.at)
    array = array.reshape(layout.steps, -1, *array.shape[1:])
    return jnp.moveaxis(array, 1, layout.at)
