"""The exchange between nodes that have different units, in whole arrays; and what of it is sent.

It computes what nodes with really small arrays would: each sends those, with the numbers of its
units, and a receiver averages what falls on units of its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.decentralised.aggregation.rule import Rule, averaged, dense
from dynhp_jax.decentralised.local_training import with_units
from dynhp_jax.decentralised.mixing import present
from dynhp_jax.decentralised.pruned.node_program import Weights
from dynhp_jax.decentralised.pruned.stacks import masks_of
from dynhp_jax.structure.groups import Groups

_NUMBER = 4  # bytes of a float32


def exchanged(
    rule: Rule,
    groups: Groups,
    averaged_gates: bool,
    weights: Weights,
    before: dict[str, jax.Array],
    after: dict[str, jax.Array],
    start: Any,
    matrix: jax.Array,
    there: jax.Array,
) -> Weights:
    """What nodes have after an exchange; traced.

    Args:
      rule: of aggregation, for units that a node has before and after.
      groups: of the whole network.
      averaged_gates: whether gates are exchanged, too.
      weights: of all nodes.
      before: {group: f32[nodes, units]}, the units that each has when the others hear of it.
      after: those that it has then. What comes back is the mean of those who have it, or as it was
        at the start.
      start: the variables of one node at the start.
      matrix: f32[nodes, nodes], of mixing.
      there: bool[nodes].
    """
    matrix, had = present(matrix, there), masks_of(groups, weights.variables, before)
    has = masks_of(groups, weights.variables, after)
    leaves, tree = jax.tree.flatten(weights.variables)
    had, has = tree.flatten_up_to(had), tree.flatten_up_to(has)
    places = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    some, known = [leaves[k] for k in places], [had[k] for k in places]
    gates = weights.log_alpha
    if averaged_gates:
        some = [*some, *gates.values()]
        known = [*known, *((before[name],) for name in gates)]
    found = rule.combine(dense(rule.matrix(matrix)), some, known)
    if averaged_gates:
        mixed = dict(zip(gates, found[len(places) :], strict=True))
        gates = {name: _of(there, mixed[name], gates[name]) for name in gates}
    first = jax.tree.leaves(start)
    for k, new in zip(places, found, strict=False):
        mean, someone = averaged(dense(matrix), leaves[k], had[k], None)
        back = jnp.where(someone, mean, first[k])
        new = jnp.where(_product(had[k], leaves[k]) > 0, new, back)
        leaves[k] = _of(there, new * _product(has[k], leaves[k]), leaves[k])
    return Weights(tree.unflatten(leaves), gates)


def without_dead(groups: Groups, variables: Any, alive: dict[str, jax.Array]) -> Any:
    """The variables of all nodes with zeros where a node has no unit; traced."""
    masks = masks_of(groups, variables, alive)
    kept = with_units(variables, masks)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), kept, variables)


def _of(there: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(there.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _product(masks: tuple[jax.Array, ...], leaf: jax.Array) -> jax.Array:
    total = jnp.ones((1,) * leaf.ndim, leaf.dtype)
    for mask in masks:
        total = total * mask.astype(leaf.dtype)
    return total


def numbers_shared(
    shapes: Any, masks: Any, alive: Mapping[str, np.ndarray], gates: bool
) -> np.ndarray:
    """How many numbers two nodes both have, i64[nodes, nodes]; on the diagonal a node's own.

    Args:
      shapes: of one node's whole variables.
      masks: from `masks_of`, of all nodes.
      alive: {group: bool[nodes, units]}.
      gates: whether gates count, too.
    """
    leaves, tree = jax.tree.flatten(shapes)
    nodes = len(next(iter(alive.values())))
    total = np.zeros((nodes, nodes), np.int64)
    for leaf, has in zip(leaves, tree.flatten_up_to(masks), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        both, rest = np.ones((nodes, nodes), np.int64), int(np.prod(leaf.shape))
        for mask in has:
            flat = np.asarray(mask).reshape(nodes, -1).astype(np.int64)
            both, rest = both * (flat @ flat.T), rest // flat.shape[1]
        total += both * rest
    if gates:
        for mask in alive.values():
            flat = np.asarray(mask).astype(np.int64)
            total += flat @ flat.T
    return total


def sent(
    mixing: np.ndarray, there: np.ndarray, shared: np.ndarray, changed: np.ndarray, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that every node sends in a round, i64[nodes] each: own arrays, and intersections.

    Args:
      mixing: f64[nodes, nodes].
      there: bool[nodes].
      shared: from `numbers_shared`.
      changed: bool[nodes], whose units are others than the neighbours know of.
      units: bytes that say which units these are: a bit for each.
    """
    hears = (mixing > 0) & ~np.eye(len(mixing), dtype=bool) & there[:, None] & there
    receivers = hears.sum(0)
    news = changed * units * receivers
    own = receivers * np.diag(shared) * _NUMBER + news
    return own, (hears.T * shared).sum(1) * _NUMBER + news
