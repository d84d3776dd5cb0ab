"""Undirected graphs of nodes: symmetric matrices bool[nodes, nodes] with an empty diagonal.

A graph is plain NumPy data. Whatever is drawn comes from a seed, and nothing else.

>>> ring(4).astype(int).tolist()
[[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError

Graph = np.ndarray

_DRAWS = 200  # of a random graph, until one is connected


def from_edges(nodes: int, edges: Iterable[tuple[int, int]]) -> Graph:
    """A graph from its edges, in any order and direction; an edge may be there twice.

    Args:
      nodes: how many, numbered from 0.
      edges: pairs of two nodes.

    Raises:
      UserError: an edge leads to itself, or to a node that is not there.
    """
    _check_count(nodes)
    graph = np.zeros((nodes, nodes), bool)
    for edge in edges:
        ends = tuple(edge)
        if len(ends) != 2 or ends[0] == ends[1] or not all(_is_node(end, nodes) for end in ends):
            raise UserError(
                f"an edge is {ends}; allowed: two different nodes from 0 to {nodes - 1}"
            )
        graph[ends] = graph[ends[::-1]] = True
    return graph


def from_networkx(graph: Any) -> Graph:
    """A graph of networkx, or any object with `nodes` and `edges` like its `Graph`.

    Args:
      graph: undirected; its nodes are numbered in the order in which `graph.nodes` lists them.

    Raises:
      UserError: it is directed, has an edge from a node to itself, or is no such object.
    """
    if not (hasattr(graph, "nodes") and hasattr(graph, "edges")):
        raise UserError(
            f"the graph is a {type(graph).__name__}; allowed: an object with nodes and edges, as"
            " networkx.Graph has them"
        )
    if getattr(graph, "is_directed", bool)():
        raise UserError("the graph is directed; allowed: undirected ones; see to_undirected()")
    number = {node: place for place, node in enumerate(graph.nodes)}
    return from_edges(len(number), [(number[end[0]], number[end[1]]) for end in graph.edges])


def ring(nodes: int) -> Graph:
    """Every node has the two beside it as neighbours."""
    _check_count(nodes, least=3)
    return from_edges(nodes, [(node, (node + 1) % nodes) for node in range(nodes)])


def star(nodes: int) -> Graph:
    """Node 0 is the neighbour of all others, and their only one."""
    _check_count(nodes, least=2)
    return from_edges(nodes, [(0, node) for node in range(1, nodes)])


def complete(nodes: int) -> Graph:
    """Everybody is everybody's neighbour: FedAvg, without a server."""
    _check_count(nodes, least=2)
    return ~np.eye(nodes, dtype=bool)


def lattice(rows: int, columns: int, periodic: bool = False) -> Graph:
    """A grid; node `row * columns + column` has those above, below, left and right of it.

    Args:
      rows, columns: of the grid.
      periodic: whether its opposite borders meet.
    """
    _check_count(rows * columns, least=2)
    edges = []
    for row in range(rows):
        for column in range(columns):
            for down, right in ((1, 0), (0, 1)):
                other = row + down, column + right
                if periodic:
                    other = other[0] % rows, other[1] % columns
                if other[0] < rows and other[1] < columns and other != (row, column):
                    edges.append((row * columns + column, other[0] * columns + other[1]))
    return from_edges(rows * columns, edges)


def erdos_renyi(nodes: int, degree: float, seed: int) -> Graph:
    """Every pair has an edge with the same probability; drawn again until connected.

    Args:
      nodes: how many.
      degree: neighbours of a node, on average: the probability is degree / (nodes - 1).
      seed: of the draw.

    Raises:
      UserError: the degree cannot be, or no connected graph came of it.
    """
    _check_count(nodes, least=2)
    if not 0 < degree <= nodes - 1:
        raise UserError(f"degree is {degree}; allowed: above 0, at most {nodes - 1}")
    return _connected_draw(np.full((nodes, nodes), degree / (nodes - 1)), seed, "degree")


def barabasi_albert(nodes: int, attached: int, seed: int) -> Graph:
    """Nodes come one by one, and choose neighbours in proportion to their degree; connected.

    The first `attached + 1` nodes are a star (Barabasi and Albert 1999, as networkx has it).

    Args:
      nodes: how many.
      attached: neighbours that each new node chooses.
      seed: of the draw.
    """
    if not 1 <= attached < nodes:
        raise UserError(f"attached is {attached}; allowed: 1 to {nodes - 1}")
    rng = np.random.default_rng(seed)
    edges = [(0, node) for node in range(1, attached + 1)]
    ends = [end for edge in edges for end in edge]  # every node as often as it has neighbours
    for node in range(attached + 1, nodes):
        chosen: dict[int, None] = {}
        while len(chosen) < attached:
            chosen[ends[rng.integers(len(ends))]] = None
        edges += [(node, other) for other in chosen]
        ends += [end for other in chosen for end in (node, other)]
    return from_edges(nodes, edges)


def stochastic_block(sizes: Iterable[int], inside: float, between: float, seed: int) -> Graph:
    """Communities: two nodes have an edge with a probability that depends on theirs.

    Args:
      sizes: nodes of each community, which are numbered one community after the other.
      inside, between: the probabilities, in one community and between two.
      seed: of the draw, which is repeated until the graph is connected.

    Raises:
      UserError: a probability that is none, or no connected graph came of them.
    """
    sizes = tuple(sizes)
    _check_count(sum(sizes), least=2)
    for name, value in (("inside", inside), ("between", between)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}; allowed: a probability from 0 to 1")
    community = np.repeat(np.arange(len(sizes)), sizes)
    alike = community[:, None] == community
    return _connected_draw(np.where(alike, inside, between), seed, "inside or between")


def connected(graph: Graph) -> bool:
    """Whether there is a way between any two nodes."""
    return len(components(graph)) == 1


def components(graph: Graph) -> list[np.ndarray]:
    """The nodes that can reach each other: sorted numbers, by the lowest of each."""
    left, found = np.ones(len(graph), bool), []
    while left.any():
        reached = np.zeros(len(graph), bool)
        fresh = reached.copy()
        fresh[np.argmax(left)] = True
        while fresh.any():
            reached |= fresh
            fresh = graph[fresh].any(0) & ~reached
        found.append(np.flatnonzero(reached))
        left &= ~reached
    return found


def check_graph(graph: Any) -> Graph:
    """A matrix as a graph.

    Raises:
      UserError: it is not square, not symmetric, or a node is its own neighbour.
    """
    found = np.asarray(graph)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not found.size:
        raise UserError(f"the graph has the shape {found.shape}; allowed: [nodes, nodes]")
    found = found.astype(bool)
    if found.diagonal().any():
        node = int(np.argmax(found.diagonal()))
        raise UserError(f"node {node} is its own neighbour; allowed: an empty diagonal")
    if (found != found.T).any():
        one, other = (int(each) for each in np.argwhere(found != found.T)[0])
        raise UserError(f"nodes {one} and {other} are neighbours in one direction only; allowed:"
                        " a symmetric matrix")  # fmt: skip
    return found


def check_connected(graph: Graph, why: str) -> None:
    """Raises UserError where a graph is in several parts; `why` says what needs one."""
    parts = components(check_graph(graph))
    if len(parts) > 1:
        raise UserError(
            f"the graph is in {len(parts)} parts, node {parts[1][0]} cannot be reached from node"
            f" {parts[0][0]}; {why}"
        )


def _connected_draw(probability: np.ndarray, seed: int, called: str) -> Graph:
    rng, nodes = np.random.default_rng(seed), len(probability)
    for _ in range(_DRAWS):
        upper = np.triu(rng.random((nodes, nodes)) < probability, 1)
        graph = upper | upper.T
        if connected(graph):
            return graph
    raise UserError(
        f"none of {_DRAWS} draws of {nodes} nodes was connected; give a larger {called}"
    )


def _check_count(nodes: int, least: int = 1) -> None:
    if not isinstance(nodes, (int, np.integer)) or nodes < least:
        raise UserError(f"the graph is to have {nodes} nodes; allowed: {least} or more")


def _is_node(end: Any, nodes: int) -> bool:
    return isinstance(end, (int, np.integer)) and 0 <= end < nodes
