"""Graphs, and how central their nodes are."""

import itertools

import numpy as np
import pytest

from dynhp_jax import UserError
from dynhp_jax.decentralised import centralities, graphs

SOME = {
    "ring": graphs.ring(9),
    "star": graphs.star(6),
    "complete": graphs.complete(5),
    "lattice": graphs.lattice(3, 4),
    "torus": graphs.lattice(3, 4, periodic=True),
    "erdos_renyi": graphs.erdos_renyi(20, 4, seed=1),
    "barabasi_albert": graphs.barabasi_albert(30, 2, seed=1),
    "stochastic_block": graphs.stochastic_block((8, 7), 0.7, 0.1, seed=2),
}


def distances(graph):
    """Floyd and Warshall's, and the number of shortest ways."""
    nodes = len(graph)
    far = np.where(graph, 1.0, np.inf)
    np.fill_diagonal(far, 0)
    for k in range(nodes):
        far = np.minimum(far, far[:, k : k + 1] + far[k])
    ways = np.eye(nodes)
    for length in range(1, nodes):
        for i, j in np.argwhere(far == length):
            ways[i, j] = sum(ways[i, k] for k in range(nodes) if graph[k, j]
                             and far[i, k] == length - 1)  # fmt: skip
    return far, ways


@pytest.mark.parametrize("name", SOME)
def test_every_graph_is_one_and_connected(name):
    graph = SOME[name]
    assert graph.dtype == bool and (graph == graph.T).all() and not graph.diagonal().any()
    assert graphs.connected(graph) and len(graphs.components(graph)) == 1
    assert np.isfinite(distances(graph)[0]).all()


def test_degrees_and_edges_are_those_that_are_asked_for():
    degrees = {name: graph.sum(1) for name, graph in SOME.items()}
    assert set(degrees["ring"]) == {2} and set(degrees["complete"]) == {4}
    assert set(degrees["torus"]) == {4} and sorted(degrees["lattice"])[-2:] == [4, 4]
    assert sorted(degrees["star"]) == [1, 1, 1, 1, 1, 5]
    assert degrees["barabasi_albert"].sum() == 2 * (2 + 27 * 2)
    assert degrees["barabasi_albert"].min() >= 1 and degrees["barabasi_albert"].max() > 6
    mean = np.mean([graphs.erdos_renyi(40, 6, seed=k).sum(1).mean() for k in range(20)])
    assert abs(mean - 6) < 0.3
    block = graphs.stochastic_block((30, 30), 0.5, 0.05, seed=0)
    assert abs(block[:30, :30].sum() / (30 * 29) - 0.5) < 0.08
    assert abs(block[:30, 30:].mean() - 0.05) < 0.03


def test_a_seed_gives_the_same_graph_and_another_one_another():
    for draw in (lambda seed: graphs.barabasi_albert(20, 2, seed),
                 lambda seed: graphs.erdos_renyi(20, 5, seed),
                 lambda seed: graphs.stochastic_block((10, 10), 0.6, 0.1, seed)):  # fmt: skip
        assert (draw(3) == draw(3)).all() and (draw(3) != draw(4)).any()


def test_parts_of_a_graph():
    graph = graphs.from_edges(6, [(4, 1), (1, 4), (0, 2), (2, 5)])
    assert [part.tolist() for part in graphs.components(graph)] == [[0, 2, 5], [1, 4], [3]]
    assert not graphs.connected(graph)


@pytest.mark.parametrize("name", SOME)
def test_centralities_are_what_they_say(name):
    graph = SOME[name]
    nodes = len(graph)
    far, ways = distances(graph)
    between = np.zeros(nodes)
    for v, s, t in itertools.permutations(range(nodes), 3):
        if far[s, v] + far[v, t] == far[s, t]:
            between[v] += ways[s, v] * ways[v, t] / ways[s, t]
    between /= (nodes - 1) * (nodes - 2)
    np.testing.assert_allclose(centralities.betweenness(graph), between, atol=1e-12)
    for node in range(nodes):
        near = np.flatnonzero(graph[node])
        pairs = list(itertools.combinations(near, 2))
        share = np.mean([graph[pair] for pair in pairs]) if pairs else 0.0
        assert centralities.clustering(graph)[node] == pytest.approx(share)
    assert (centralities.degree(graph) == graph.sum(1)).all()


def test_the_most_central_nodes():
    graph = SOME["barabasi_albert"]
    first = centralities.central(graph, 3)
    assert sorted(graph.sum(1)[first])[::-1] == sorted(graph.sum(1))[::-1][:3]
    last = centralities.central(graph, 30, "betweenness", lowest=True)
    assert sorted(last) == list(range(30))
    assert (np.diff(centralities.betweenness(graph)[last]) >= 0).all()


class Graph:
    """As networkx has it, no more than is read."""

    def __init__(self, edges, directed=False):
        self.edges, self._directed = edges, directed
        self.nodes = list(dict.fromkeys(node for edge in edges for node in edge))

    def is_directed(self):
        return self._directed


def test_a_graph_of_networkx():
    found = graphs.from_networkx(Graph([("c", "a"), ("a", "b")]))
    assert (found == graphs.from_edges(3, [(0, 1), (1, 2)])).all()
    networkx = pytest.importorskip("networkx")
    mine = graphs.from_networkx(networkx.karate_club_graph())
    assert (mine == networkx.to_numpy_array(networkx.karate_club_graph(), weight=None)).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: graphs.from_edges(3, [(0, 3)]), "an edge is (0, 3)"),
        (lambda: graphs.from_edges(3, [(1, 1)]), "two different nodes from 0 to 2"),
        (lambda: graphs.ring(2), "2 nodes; allowed: 3 or more"),
        (lambda: graphs.erdos_renyi(5, 9, 0), "degree is 9; allowed: above 0, at most 4"),
        (lambda: graphs.erdos_renyi(60, 0.5, 0), "none of 200 draws of 60 nodes was connected"),
        (lambda: graphs.barabasi_albert(4, 4, 0), "attached is 4; allowed: 1 to 3"),
        (lambda: graphs.stochastic_block((3, 3), 2, 0, 0), "inside is 2"),
        (lambda: graphs.from_networkx(3), "the graph is a int"),
        (lambda: graphs.from_networkx(Graph([(0, 1)], True)), "the graph is directed"),
        (lambda: graphs.check_graph(np.ones((2, 2))), "node 0 is its own neighbour"),
        (lambda: graphs.check_graph(np.triu(np.ones((3, 3)), 1)), "in one direction only"),
        (lambda: graphs.check_graph(np.ones(3)), "the graph has the shape (3,)"),
        (lambda: graphs.check_connected(np.zeros((3, 3)), "the gain needs one"), "in 3 parts"),
        (lambda: centralities.central(graphs.ring(4), 1, "fame"), "no centrality 'fame'"),
        (lambda: centralities.central(graphs.ring(4), 5), "5 central nodes"),
    ],
)
def test_what_is_no_graph_is_one_line(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
