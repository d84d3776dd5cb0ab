"""Mixing matrices: how a node weighs what it and its neighbours hold, and what follows from that.

On the host a matrix is f64[nodes, nodes]; its rows are the receivers and sum to one. `present` and
`neighbours_only` are traced: in a compiled program of many rounds the matrix is data.

>>> from dynhp_jax.decentralised import graphs
>>> mixing_matrix(graphs.star(3), sizes=[3, 1, 1]).tolist()
[[0.6, 0.2, 0.2], [0.75, 0.25, 0.0], [0.75, 0.0, 0.25]]
>>> round(initialisation_gain(mixing_matrix(graphs.ring(16))), 6)
4.0
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.graphs import Graph, check_graph, components

_ROUNDED = 1e-5  # by how much a row's sum may differ from one
MIXED = 0.05  # of the differences between nodes is left, where they count as mixed


def mixing_matrix(graph: Graph, sizes: Any = None) -> np.ndarray:
    """DecAvg's weights: those of a node and its neighbours, in proportion to their examples.

    W[i, j] = (A + I)[i, j] |D_j| / sum over k of (A + I)[i, k] |D_k| (2312.04504, equation 2). A
    node without neighbours keeps its weights, where the published code divides by nothing.

    Args:
      graph: bool[nodes, nodes].
      sizes: training examples of every node; None for equal ones. Nodes without examples count for
        nothing, so relays need equal sizes.

    Returns:
      f64[nodes, nodes]; rows sum to one.

    Raises:
      UserError: sizes that are none.
    """
    graph = check_graph(graph)
    sizes = np.ones(len(graph)) if sizes is None else np.asarray(sizes, np.float64)
    if sizes.shape != (len(graph),) or not np.isfinite(sizes).all() or (sizes < 0).any():
        raise UserError(
            f"sizes has the shape {sizes.shape} and the least value"
            f" {sizes.min() if sizes.size else None}; allowed: numbers of examples, 0 or more, of"
            f" {len(graph)} nodes"
        )
    identity = np.eye(len(graph))
    weights = (graph + identity) * sizes
    total = weights.sum(1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), identity)


def check_mixing(mixing: Any, nodes: int) -> np.ndarray:
    """Mixing matrices, as f64[..., nodes, nodes].

    Raises:
      UserError: another shape, a negative number, or a row that does not sum to one.
    """
    found = np.asarray(mixing, np.float64)
    if found.ndim not in (2, 3) or found.shape[-2:] != (nodes, nodes):
        raise UserError(
            f"mixing has the shape {found.shape}; allowed: [{nodes}, {nodes}], or with a leading"
            " axis of rounds"
        )
    if not np.isfinite(found).all() or (found < 0).any():
        raise UserError("mixing holds a number that is negative or not finite; allowed: 0 to 1")
    sums = found.sum(-1)
    if (np.abs(sums - 1) > _ROUNDED).any():
        *_, row = np.argwhere(np.abs(sums - 1) > _ROUNDED)[0]
        value = sums[np.abs(sums - 1) > _ROUNDED][0]
        raise UserError(
            f"row {row} of mixing sums to {value:.6g}; allowed: 1; divide every row by its sum, or"
            " use mixing_matrix(graph, sizes)"
        )
    return found


def influence(mixing: Any) -> np.ndarray:
    """How much the initial weights of each node count in the end: the left Perron vector.

    Args:
      mixing: f64[nodes, nodes].

    Returns:
      f64[nodes], above or equal to 0, with the sum one.

    Raises:
      UserError: several groups of nodes end with weights of their own, so there is no such vector.
    """
    mixing = check_mixing(mixing, len(mixing))
    parts = components((mixing > 0) | (mixing.T > 0))
    if len(parts) > 1:
        raise UserError(
            f"the graph of mixing is in {len(parts)} parts, node {parts[1][0]} never hears of node"
            f" {parts[0][0]}; connect them, or take the gain of each part on its own"
        )
    # (W' - I) v = 0 and sum(v) = 1, as one system: exact where eigenvectors are only near.
    system = np.vstack([mixing.T - np.eye(len(mixing)), np.ones(len(mixing))])
    vector, _, rank, _ = np.linalg.lstsq(system, np.r_[np.zeros(len(mixing)), 1.0], rcond=None)
    if rank < len(mixing):
        raise UserError("mixing has several ends: some nodes listen to nobody; connect them")
    return np.maximum(vector, 0)


def initialisation_gain(mixing: Any) -> float:
    """By what independent initial weights are to be multiplied: |v|_1 / |v|_2 (2403.15855).

    Averaging independent weights shrinks their standard deviation to |v|_2 / |v|_1 of what it was,
    v the left Perron vector of the mixing matrix *that is used*, data sizes included (the published
    code leaves them out). With a shared initialisation there is no gain.

    Args:
      mixing: f64[nodes, nodes].

    Raises:
      UserError: the graph is not connected.
    """
    vector = influence(mixing)
    return float(vector.sum() / np.linalg.norm(vector))


def deviation(mixing: Any, rounds: int) -> np.ndarray:
    """Of independent weights after so many averagings: f64[nodes], as a share of the initial one.

    Exact: the norms of the rows of the matrix's power.
    """
    mixing = check_mixing(mixing, len(mixing))
    return np.linalg.norm(np.linalg.matrix_power(mixing, rounds), axis=1)


def rounds_to_mix(mixing: Any, left: float = MIXED) -> int:
    """Rounds until only a share `left` of the nodes' differences is left, if nobody trains.

    The least t with |lambda_2| ** t < left. Before that, units of nodes with independent initial
    weights do not correspond, and pruning them by what neighbours have makes no sense.

    >>> from dynhp_jax.decentralised import graphs
    >>> rounds_to_mix(mixing_matrix(graphs.ring(16)))
    58

    Raises:
      UserError: the graph is not connected.
    """
    influence(mixing)  # one end, or there is no such time
    second = np.sort(np.abs(np.linalg.eigvals(np.asarray(mixing, np.float64))))[-2:][0]
    if second < 1e-12 or len(mixing) == 1:
        return 1
    if second > 1 - 1e-12:
        raise UserError("mixing never comes to an end: its nodes take turns; give them a part of"
                        " their own weights")  # fmt: skip
    return math.floor(math.log(left) / math.log(second)) + 1


def present(mixing: jax.Array, alive: jax.Array) -> jax.Array:
    """The matrix of the nodes that are there: others count for nothing, and keep what they have.

    Args:
      mixing: f32[nodes, nodes].
      alive: bool[nodes].

    Returns:
      f32[nodes, nodes]; rows sum to one.
    """
    weights = jnp.where(alive[:, None] & alive, mixing, 0)
    total = weights.sum(1, keepdims=True)
    identity = jnp.eye(len(mixing), dtype=mixing.dtype)
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), identity)


def neighbours_only(mixing: jax.Array) -> jax.Array:
    """The weights of a node's neighbours, without its own; the row of one without any is zero."""
    weights = mixing * (1 - jnp.eye(len(mixing), dtype=mixing.dtype))
    total = weights.sum(1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)
