"""Nodes that have lost units: what each still has, as the masks that rules of aggregation take."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery.cut import axis_cuts


def units_of(variables: Any, groups: Groups, keeps: Sequence[Keeps]) -> Any:
    """The masks of several nodes, one for each axis of an array that any of them has cut.

    This simulates small networks in whole arrays: it saves neither time nor memory.

    Args:
      variables: of one node, whole; shapes are enough.
      groups: of their units, from `find_groups`.
      keeps: of every node, {group: sorted indices}; a missing group keeps all its units.

    Returns:
      A pytree like the variables with, in place of each array, a tuple of masks [nodes, 1, ...,
      units, ..., 1] that broadcast against the array of all nodes.

    Raises:
      ValueError: keeps that `cut` refuses, too.

    >>> from dynhp_jax import find_groups
    >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> apply = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
    >>> groups = find_groups(apply, params, jnp.ones((4, 2)))
    >>> units = units_of(params, groups, [{"a": np.array([0, 2])}, {}])
    >>> [mask.shape for mask in units["a"]], units["b"][0][:, :, 0].astype(int).tolist()
    ([(2, 1, 3)], [[1, 0, 1], [1, 1, 1]])
    """
    cuts = [axis_cuts(groups, each) for each in keeps]

    def masks(path, leaf):
        name, shape = path_name(path), jnp.shape(leaf)
        mine = [dict(each.get(name, ())) for each in cuts]
        found = []
        for axis in sorted({axis for each in mine for axis in each}):
            mask = np.stack(
                [np.isin(np.arange(shape[axis]), each.get(axis, np.arange(shape[axis])))
                 for each in mine]
            )  # fmt: skip
            sizes = [len(cuts), *[1] * len(shape)]
            sizes[axis + 1] = shape[axis]
            found.append(mask.reshape(sizes))
        return tuple(found)

    return jax.tree_util.tree_map_with_path(masks, variables)


def numbers_held(variables: Any, units: Any, nodes: int) -> np.ndarray:
    """How many numbers each node has, of the real ones: int[nodes].

    Args:
      variables: of one node, whole; shapes are enough.
      units: from `units_of`, or () where nobody has lost any.
      nodes: how many.
    """
    leaves, tree = jax.tree.flatten(variables)
    masks = [()] * len(leaves) if isinstance(units, tuple) else tree.flatten_up_to(units)
    total = np.zeros(nodes, np.int64)
    for leaf, has in zip(leaves, masks, strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        size = np.full(nodes, int(np.prod(leaf.shape)), np.int64)
        for mask in map(np.asarray, has):
            of_axis = int(np.prod(mask.shape[1:]))
            size = size // of_axis * mask.reshape(nodes, -1).sum(1)
        total += size
    return total
