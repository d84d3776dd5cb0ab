"""The weights that nodes start with: the same for all, or each its own, with the gain of the graph.

>>> variables = {"kernel": jnp.zeros((6, 2)), "bias": jnp.zeros(2)}
>>> stacked = independent(variables, jax.random.key(0), nodes=3, gain=2.0)
>>> stacked["kernel"].shape, bool(jnp.abs(stacked["kernel"]).max() <= 2)
((3, 6, 2), True)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import path_name


def shared(variables: Any, nodes: int) -> Any:
    """The same variables for every node, with a leading axis; no gain belongs to them.

    Args:
      variables: a pytree of arrays.
      nodes: how many.
    """
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (nodes, *jnp.shape(leaf))), variables)


def independent(variables: Any, key: jax.Array, nodes: int, gain: float = 1.0) -> Any:
    """Variables that are drawn anew for every node, by `drawn`, with a leading axis.

    Args:
      variables: of one node.
      key: each node has that of its number.
      nodes: how many.
      gain: of the kernels, see `mixing.initialisation_gain`.
    """
    keys = jax.vmap(lambda node: jax.random.fold_in(key, node))(jnp.arange(nodes))
    return jax.vmap(lambda key: drawn(variables, key, gain))(keys)


def drawn(variables: Any, key: jax.Array, gain: float = 1.0) -> Any:
    """New initial weights for one node.

    Kernels, arrays of two axes or more, are drawn from U(-g r, g r) with r = sqrt(6 / fan_in); the
    biases beside them from U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), as torch does it and without
    gain (2403.15855). All other arrays stay as they are.

    Args:
      variables: a pytree of arrays; the last axis of a kernel is its outputs.
      key: of the draw.
      gain: g.

    Raises:
      UserError: a gain that is not above 0.
    """
    if not gain > 0:
        raise UserError(f"the gain is {gain}; allowed: a number above 0")
    leaves, structure = jax.tree.flatten_with_path(variables)
    fans = {path_name(path[:-1]): math.prod(leaf.shape[:-1]) for path, leaf in leaves
            if _is_kernel(leaf)}  # fmt: skip
    bounds = [_bound(path, leaf, fans, gain) for path, leaf in leaves]
    total = sum(leaf.size for bound, (_, leaf) in zip(bounds, leaves, strict=True) if bound)
    numbers = jax.random.uniform(key, (total,), minval=-1.0, maxval=1.0)  # one draw compiles once
    found, start = [], 0
    for bound, (_, leaf) in zip(bounds, leaves, strict=True):
        if bound:
            mine = numbers[start : start + leaf.size].reshape(leaf.shape)
            start += leaf.size
            leaf = (bound * mine).astype(leaf.dtype)
        found.append(leaf)
    return jax.tree.unflatten(structure, found)


def _bound(path: Any, leaf: Any, fans: dict[str, int], gain: float) -> float:
    """Up to where an array is drawn; 0 where it stays as it is."""
    if _is_kernel(leaf):
        return gain * math.sqrt(6 / math.prod(leaf.shape[:-1]))
    beside = path_name(path[:-1])
    if leaf.ndim == 1 and "bias" in path_name(path[-1:]) and beside in fans:
        return 1 / math.sqrt(fans[beside])
    return 0.0


def _is_kernel(leaf: Any) -> bool:
    return leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
