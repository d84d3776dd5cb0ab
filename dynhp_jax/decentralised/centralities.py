"""How central the nodes of a graph are: numbers f64[nodes], and the nodes that have the most."""

from collections import deque
from collections.abc import Callable

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised.graphs import Graph, check_graph


def degree(graph: Graph) -> np.ndarray:
    """Neighbours of every node."""
    return graph.sum(1).astype(np.float64)


def betweenness(graph: Graph) -> np.ndarray:
    """The share of other pairs' shortest ways that lead over a node (Brandes 2001).

    Of several shortest ways of a pair each counts in part; of all pairs it is the mean, as
    networkx normalises it.
    """
    nodes = len(graph)
    neighbours = [np.flatnonzero(row).tolist() for row in graph]
    total = np.zeros(nodes)
    for source in range(nodes):
        total += _dependencies(neighbours, source)
    pairs = (nodes - 1) * (nodes - 2)
    return total / pairs if pairs else total


def clustering(graph: Graph) -> np.ndarray:
    """The share of pairs of a node's neighbours that are neighbours; 0 below two neighbours."""
    adjacent = graph.astype(np.float64)
    closed = np.einsum("ij,jk,ki->i", adjacent, adjacent, adjacent, optimize=True)
    pairs = degree(graph) * (degree(graph) - 1)
    return np.divide(closed, pairs, out=np.zeros(len(graph)), where=pairs > 0)


# A new centrality that configs may name: its function, and its line here.
CENTRALITIES: dict[str, Callable[[Graph], np.ndarray]] = {
    "degree": degree,
    "betweenness": betweenness,
    "clustering": clustering,
}


def central(
    graph: Graph,
    count: int,
    by: str | Callable[[Graph], np.ndarray] = "degree",
    lowest: bool = False,
) -> np.ndarray:
    """The nodes with the highest centrality, the first one first; ties go to the lower number.

    Args:
      graph: bool[nodes, nodes].
      count: how many nodes.
      by: a name of CENTRALITIES, or a function of a graph.
      lowest: those with the lowest instead.

    Raises:
      UserError: there is no such centrality, or not as many nodes.

    >>> from dynhp_jax.decentralised import graphs
    >>> central(graphs.star(5), 2).tolist(), central(graphs.star(5), 1, lowest=True).tolist()
    ([0, 1], [1])
    """
    graph = check_graph(graph)
    if isinstance(by, str) and by not in CENTRALITIES:
        raise UserError(f"there is no centrality {by!r}; allowed: {', '.join(CENTRALITIES)}")
    if not 0 <= count <= len(graph):
        raise UserError(f"{count} central nodes are asked for; allowed: 0 to {len(graph)}")
    values = np.asarray((CENTRALITIES[by] if isinstance(by, str) else by)(graph))
    return np.argsort(values if lowest else -values, kind="stable")[:count]


def _dependencies(neighbours: list[list[int]], source: int) -> np.ndarray:
    """What the shortest ways from one node add to the betweenness of all others."""
    nodes = len(neighbours)
    distance, ways = np.full(nodes, -1), np.zeros(nodes)
    distance[source], ways[source] = 0, 1
    order, before = [], [[] for _ in range(nodes)]
    waiting = deque([source])
    while waiting:
        here = waiting.popleft()
        order.append(here)
        for there in neighbours[here]:
            if distance[there] < 0:
                distance[there] = distance[here] + 1
                waiting.append(there)
            if distance[there] == distance[here] + 1:
                ways[there] += ways[here]
                before[there].append(here)
    share = np.zeros(nodes)
    for node in reversed(order):
        for nearer in before[node]:
            share[nearer] += ways[nearer] / ways[node] * (1 + share[node])
    share[source] = 0
    return share
