"""Paths ranked by the paper's risk and opportunity beside their energy; options, off by default.

Source: algorithm 3 of Malandrino et al. 2023. As it is printed the energy of a path cancels out and
moves that cannot be undone have infinite risk; here the first edge is charged, a move that cannot
be undone has the risk 1, and factors below 1 are 1.
"""

from collections.abc import Iterable

import numpy as np

from dynhp_jax.planner.graph import Graph, Path, Search, Vertex, cheapest, paths

RISKS = ("none", "return")
OPPORTUNITIES = ("none", "ratio")


def best(
    graph: Graph, root: Vertex, units: int, risk: str, opportunity: str, told: Search
) -> Path | None:
    """The path with the lowest score among the cheapest ones of every last edge.

    Args:
      graph: of the present state.
      root: that state.
      units: of time until the deadline.
      risk, opportunity: which factors count.
      told: takes what is known where there is no path.
    """
    if cheapest(graph, root, units, told) is None:
        return None
    returns: dict[Vertex | None, float | None] = {}
    ranked = []
    for path in paths(graph, root, units, labels=True):
        factor = 1.0
        if risk == "return":
            factor *= _risk(graph, root, units, path, returns)
        if opportunity == "ratio":
            factor /= _opportunity(graph, root, path)
        ranked.append((path.energy * factor, path.energy, path))
    return min(ranked, key=lambda each: each[:2])[2]


def _risk(graph: Graph, root: Vertex, units: int, path: Path, returns: dict) -> float:
    first = path.edges[0]
    if first.target is None:
        return 1.0
    if first.target not in returns:
        left = units - first.units
        back = next(paths(graph, first.target, left, labels=True, via=root.pair.model), None)
        returns[first.target] = None if back is None else back.energy
    back = returns[first.target]
    return 1.0 if back is None else max(1.0, (first.energy + back) / path.energy)


def _opportunity(graph: Graph, root: Vertex, path: Path) -> float:
    expected = robust = 0.0
    for vertex, edge in _along(root, path):
        ahead = np.array([edge.epochs])
        seen = graph.estimator.after(vertex.pair, edge.pair, vertex.loss, vertex.carry, ahead)
        expected += float(seen.expected[0]) - vertex.loss
        robust += float(seen.robust[0]) - vertex.loss
    return max(1.0, expected / robust) if expected < 0 and robust < 0 else 1.0


def _along(root: Vertex, path: Path) -> Iterable[tuple]:
    vertex = root
    for edge in path.edges:
        yield vertex, edge
        vertex = edge.target
