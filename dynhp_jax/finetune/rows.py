"""Chosen rows of kernels: as indices, as arrays of their own, and back in the kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path, leaf_paths
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.row_layout import RowLayout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Chosen rows (input channels) of one kernel; a pytree whose only leaf is `index`.

    Attributes:
      index: i32[capacity] row numbers, each at most once, those without a row are `layout.count`;
        i32[steps, capacity] of kernels that are stacked for a loop. A new choice of the same
        capacity compiles nothing.
      layout: which numbers of the kernel a row has; static.
    """

    index: jax.Array
    layout: RowLayout = dataclasses.field(metadata={"static": True}, repr=False)

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return self.index.shape[-1]

    @property
    def count(self) -> float:
        """How many rows are chosen, of each step on average; of arrays on the host."""
        chosen = np.count_nonzero(np.asarray(self.index) < self.layout.count)
        return chosen / max(self.layout.steps, 1)


def every_row(layout: RowLayout) -> Rows:
    """All rows of a kernel."""
    index = jnp.arange(layout.count, dtype=jnp.int32)
    return Rows(jnp.broadcast_to(index, layout.index_shape(layout.count)), layout)


def pad_rows(
    chosen: Mapping[Path, Any], costs: Mapping[Path, Cost], capacities: Mapping[Path, int] | None
) -> dict[Path, Rows]:
    """Row numbers of one's own choice as `Rows`.

    Args:
      chosen: path -> distinct row numbers.
      costs: from `channel_costs`.
      capacities: path -> room; by default, and where it is missing, as many as are chosen.

    Raises:
      UserError: an unknown kernel, a row that is not there or twice, more rows than there is room.
    """
    found = {}
    for path, numbers in chosen.items():
        if path not in costs:
            raise UserError(f"there is no kernel {path!r} among the costs; allowed: {_some(costs)}")
        layout, numbers = costs[path].layout, np.sort(np.asarray(numbers, np.int64), axis=-1)
        capacity = (capacities or {}).get(path, numbers.shape[-1])
        allowed = ((numbers >= 0) & (numbers < layout.count)).all()
        if not allowed or (np.diff(numbers, axis=-1) == 0).any() or numbers.shape[-1] > capacity:
            raise UserError(
                f"the rows of {path!r} are {numbers.tolist()} with room for {capacity}; allowed:"
                f" distinct numbers from 0 to {layout.count - 1}, at most as many as there is room"
            )
        found[path] = Rows(_padded(numbers, capacity, layout.count), layout)
    return found


def _padded(numbers: np.ndarray, capacity: int, count: int) -> jax.Array:
    room = [(0, 0)] * (numbers.ndim - 1) + [(0, capacity - numbers.shape[-1])]
    return jnp.asarray(np.pad(numbers, room, constant_values=count), jnp.int32)


def zero_probes(variables: Any, rows: Mapping[Path, Rows]) -> dict[Path, jax.Array]:
    """path -> zeros of the chosen rows' shape: the argument whose gradient is that of the rows."""
    leaves = leaves_by_path(variables)
    return {
        # Zeros of NumPy's: JAX's own are compiled once for each shape.
        path: jnp.asarray(
            np.zeros(each.layout.shape_of(each.capacity), jnp.result_type(leaves[path]))
        )
        for path, each in rows.items()
    }


def take_rows(variables: Any, rows: Mapping[Path, Rows]) -> dict[Path, jax.Array]:
    """path -> the chosen rows of a kernel (or of a pytree like the variables), zeros as padding."""
    leaves = leaves_by_path(variables)
    return {path: each.layout.taken(leaves[path], each.index) for path, each in rows.items()}


def apply_rows(variables: Any, rows: Mapping[Path, Rows], updates: Mapping[Path, jax.Array]) -> Any:
    """The variables with updates added to the chosen rows, in place if they are donated.

    Args:
      variables: pytree of arrays.
      rows: path -> the rows.
      updates: path -> array of their shape, as the gradients of probes are; padding is left out.

    Returns:
      Variables of the same structure; all other numbers are the same.
    """
    names = leaf_paths(variables)
    leaves, structure = jax.tree.flatten(variables)
    for k, path in enumerate(names):
        if path in updates:
            leaves[k] = rows[path].layout.added(leaves[k], rows[path].index, updates[path])
    return structure.unflatten(leaves)


def leaves_by_path(variables: Any) -> dict[Path, Any]:
    """The leaves of the variables by path."""
    return dict(zip(leaf_paths(variables), jax.tree.leaves(variables), strict=True))


def replaced(variables: Any, leaves: Mapping[Path, Any]) -> Any:
    """The variables with other leaves at some paths."""
    names, structure = leaf_paths(variables), jax.tree.structure(variables)
    old = jax.tree.leaves(variables)
    return structure.unflatten(
        [leaves.get(name, leaf) for name, leaf in zip(names, old, strict=True)]
    )


def _some(costs: Mapping[Path, Cost]) -> str:
    return ", ".join(map(repr, list(costs)[:4])) + (", ..." if len(costs) > 4 else "")
