"""The time-expanded graph, expanded lazily from the present state, and its cheapest paths.

A vertex is (pair, loss, carry); an edge is a change, or none, and then some epochs. Losses advance
by robust estimates and are rounded up once for every edge; what meets the target leads to the sink
unrounded. Source: algorithm 1 and 2 of Malandrino et al. 2023, with the slips mended: an edge is
charged for the pair that it trains, and time is tested after it was rounded.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dynhp_jax.planner.estimators.estimator import Carry, Estimator
from dynhp_jax.planner.state import State
from dynhp_jax.planner.tables import Grid, Limits, Pair, Tables

EPOCHS = (1, 2, 5, 10, 20, 50, 100)


class Vertex(NamedTuple):
    """A state of training on the grid; the loss of the first one is as it was observed."""

    pair: Pair
    loss: float
    carry: Carry


class Edge(NamedTuple):
    """A change, or none, and some epochs.

    Attributes:
      target: the vertex that it leads to; None for the sink.
      pair: that trains.
      epochs: of it.
      energy: joules.
      units: time in units of the grid.
      robust: the loss at its end before it is rounded.
    """

    target: Vertex | None
    pair: Pair
    epochs: int
    energy: float
    units: int
    robust: float


class Path(NamedTuple):
    """Edges from one vertex to another, and what they come to."""

    edges: tuple[Edge, ...]
    energy: float
    units: int


class Graph:
    """The vertices that were looked at, and their edges.

    Args:
      tables: costs, and what is allowed.
      estimator: of the losses.
      grid: resolutions.
      target: the limits; of them the loss alone is read.
      epochs: the numbers of epochs that an edge may have; 1 is always among them.
    """

    def __init__(
        self,
        tables: Tables,
        estimator: Estimator,
        grid: Grid,
        target: Limits,
        epochs: Sequence[int] = EPOCHS,
    ):
        self.tables, self.estimator, self.grid, self.target = tables, estimator, grid, target
        self._epochs = np.array(sorted({1, *epochs}), np.int64)
        self._edges: dict[Vertex, list[Edge]] = {}
        self._moves = {pair: tables.moves(pair) for pair in tables.places}
        self.trapped: float | None = None  # the least decrement that a cell of losses swallowed

    def root(self, state: State) -> Vertex:
        """The vertex of the present state."""
        return Vertex(state.pair, state.loss, self.estimator.begin(state))

    def edges(self, vertex: Vertex) -> list[Edge]:
        """What leads away from a vertex."""
        found = self._edges.get(vertex)
        if found is None:
            found = self._edges[vertex] = [
                edge for move in self._moves[vertex.pair] for edge in self._of_move(vertex, move)
            ]
        return found

    def _of_move(self, vertex, move) -> Iterator[Edge]:
        pair, grid, ahead = move.target, self.grid, self._epochs
        seen = self.estimator.after(vertex.pair, pair, vertex.loss, vertex.carry, ahead)
        for at, epochs in enumerate(ahead.tolist()):
            robust = float(seen.robust[at])
            if not np.isfinite(robust):
                continue
            if self.target.met(robust):
                if epochs > 1 + (ahead[at - 1] if at else 0):
                    epochs, robust = self._first(vertex, pair, ahead, at)
                yield self._edge(None, move, epochs, robust)
                return
            target = Vertex(pair, grid.up(robust), seen.carries[at])
            if target != vertex:
                yield self._edge(target, move, epochs, robust)
        lost = vertex.loss - robust
        if pair == vertex.pair and lost > 0 and grid.up(robust) >= vertex.loss:
            self.trapped = lost if self.trapped is None else min(self.trapped, lost)

    def _first(self, vertex: Vertex, pair: Pair, ahead: np.ndarray, at: int) -> tuple[int, float]:
        """The first epoch that meets the target, and its loss."""
        between = np.arange(ahead[at - 1] + 1 if at else 1, ahead[at] + 1)
        seen = self.estimator.after(vertex.pair, pair, vertex.loss, vertex.carry, between)
        first = int(np.flatnonzero(self.target.met(seen.robust))[0])
        return int(between[first]), float(seen.robust[first])

    def _edge(self, target: Vertex | None, move, epochs: int, robust: float) -> Edge:
        change, each = self.grid.units(move.change_time), self.grid.units(move.time)
        energy = move.change_energy + epochs * move.energy
        return Edge(target, move.target, epochs, energy, change + epochs * each, robust)


class Search(NamedTuple):
    """What became of a search beside its paths; filled in while they are asked for.

    Attributes:
      dropped: whether labels were dropped because they were too late.
      lowest: the lowest robust loss in time, and when it is there.
    """

    dropped: list[bool]
    lowest: list[tuple[float, int]]


def paths(
    graph: Graph,
    root: Vertex,
    units: int,
    *,
    labels: bool = False,
    fastest: bool = False,
    via: str = "",
    told: Search | None = None,
) -> Iterator[Path]:
    """Paths from a vertex to the sink, the cheapest first (Dijkstra).

    Args:
      graph: it grows.
      root: where the paths begin.
      units: of time that they may take.
      labels: whether a vertex keeps a label for each pair of energy and time that no other one
        beats in both; without, only the cheapest.
      fastest: order by time instead.
      via: a model that each path has to pass, its first vertex included; '' for none.
      told: takes what is known beside the paths.

    Yields:
      For every last edge that is reached, its cheapest path.
    """
    count = itertools.count()
    began = not via or root.pair.model == via
    heap = [((0.0, 0.0), next(count), root, began, 0.0, 0, None)]
    settled: dict[tuple[Vertex, bool], int] = {}
    while heap:
        _, _, vertex, passed, energy, spent, trail = heapq.heappop(heap)
        if vertex is None:
            yield Path(_edges_of(trail), energy, spent)
            continue
        known = settled.get((vertex, passed))
        if known is not None and not (labels and spent < known):
            continue
        settled[vertex, passed] = spent
        for edge in graph.edges(vertex):
            late = spent + edge.units
            if late > units:
                if told is not None:
                    told.dropped[0] = True
                continue
            if told is not None and (edge.robust, late) < told.lowest[0]:
                told.lowest[0] = (edge.robust, late)
            here = passed or edge.pair.model == via
            if edge.target is None and not here:
                continue
            cost = energy + edge.energy
            order = (float(late), cost) if fastest else (cost, float(late))
            after = (edge.target, here, cost, late, (edge, trail))
            heapq.heappush(heap, (order, next(count), *after))


def _edges_of(trail) -> tuple[Edge, ...]:
    found = []
    while trail is not None:
        edge, trail = trail
        found.append(edge)
    return tuple(reversed(found))


def cheapest(graph: Graph, root: Vertex, units: int, told: Search | None = None) -> Path | None:
    """The cheapest path in time; None if there is none.

    Without labels first: what that finds is the cheapest if nothing on the way was too late.
    """
    quick = Search([False], [(np.inf, 0)])
    found = next(paths(graph, root, units, told=quick), None)
    if not quick.dropped[0]:
        if told is not None:
            told.lowest[0] = quick.lowest[0]
        return found
    return next(paths(graph, root, units, labels=True, told=told), None)
