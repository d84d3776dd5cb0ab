"""Mixing matrices, gains and mixing times: against closed forms, loops and eigenvectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax import UserError
from dynhp_jax.decentralised import (
    deviation,
    drawn,
    graphs,
    independent,
    influence,
    initialisation_gain,
    mixing_matrix,
    placement,
    rounds_to_mix,
)
from dynhp_jax.decentralised.mixing import check_mixing, neighbours_only, present


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_weights_are_shares_of_examples_and_vectors_are_perrons(seed, nodes):
    rng = np.random.default_rng(seed)
    graph = np.triu(rng.random((nodes, nodes)) < 0.5, 1)
    graph |= graph.T
    sizes = rng.integers(1, 50, nodes)
    found = mixing_matrix(graph, sizes)
    for i in range(nodes):
        total = sum(sizes[j] for j in range(nodes) if graph[i, j] or i == j)
        for j in range(nodes):
            wanted = sizes[j] / total if graph[i, j] or i == j else 0
            assert found[i, j] == pytest.approx(wanted)
    if not graphs.connected(graph):
        with pytest.raises(UserError, match="never hears of node"):
            influence(found)
        return
    vector = influence(found)
    np.testing.assert_allclose(vector @ found, vector, atol=1e-9)
    values, vectors = np.linalg.eig(found.T)
    perron = np.real(vectors[:, np.argmax(values.real)])
    np.testing.assert_allclose(vector, perron / perron.sum(), atol=1e-9)


def test_gains_that_are_known():
    assert initialisation_gain(mixing_matrix(graphs.ring(16))) == pytest.approx(4, abs=1e-9)
    assert initialisation_gain(mixing_matrix(graphs.complete(16))) == pytest.approx(4, abs=1e-9)
    star = initialisation_gain(mixing_matrix(graphs.star(16)))
    assert star == pytest.approx(2.588, abs=1e-3)
    for seed in range(3):  # equal sizes: in proportion to degree + 1
        graph = graphs.barabasi_albert(64, 2, seed)
        one_more = graph.sum(1) + 1.0
        closed = one_more.sum() / np.sqrt((one_more**2).sum())
        assert initialisation_gain(mixing_matrix(graph)) == pytest.approx(closed, abs=1e-9)


def test_the_deviation_after_averaging_is_the_gains_inverse():
    """Also with very unequal sizes; and of weights that are really drawn and averaged."""
    labels = np.repeat(np.arange(10), 5_000)
    sizes = placement.sizes_of(placement.zipf(labels, 64, seed=0))
    for matrix in (mixing_matrix(graphs.barabasi_albert(64, 2, 0), sizes),
                   mixing_matrix(graphs.ring(16))):  # fmt: skip
        wanted = 1 / initialisation_gain(matrix)
        np.testing.assert_allclose(deviation(matrix, 200), wanted, rtol=0.02)
        weights = np.random.default_rng(0).normal(size=(len(matrix), 1_000))
        for _ in range(200):
            weights = matrix @ weights
        np.testing.assert_allclose(weights.std(1), wanted, rtol=0.1)
    ring = mixing_matrix(graphs.ring(16))
    means = [deviation(ring, rounds).mean() for rounds in (1, 10, 50)]
    np.testing.assert_allclose(means, [0.58, 0.33, 0.25], atol=0.005)


def test_rounds_to_mix():
    assert rounds_to_mix(mixing_matrix(graphs.ring(16))) == 58
    assert rounds_to_mix(mixing_matrix(graphs.complete(8))) == 1
    matrix = mixing_matrix(graphs.barabasi_albert(64, 2, 0))
    second = np.sort(np.abs(np.linalg.eigvals(matrix)))[-2]
    rounds = rounds_to_mix(matrix)
    assert second**rounds < 0.05 <= second ** (rounds - 1)


def test_who_is_not_there_counts_for_nothing():
    graph, sizes = graphs.barabasi_albert(7, 2, 0), np.array([3, 1, 4, 1, 5, 9, 2])
    alive = np.array([True, False, True, True, False, True, True])
    found = np.asarray(present(jnp.asarray(mixing_matrix(graph, sizes)), jnp.asarray(alive)))
    some = mixing_matrix(graph[np.ix_(alive, alive)], sizes[alive])
    np.testing.assert_allclose(found[np.ix_(alive, alive)], some, atol=1e-6)
    np.testing.assert_array_equal(found[~alive], np.eye(7)[~alive])
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    lonely = np.asarray(neighbours_only(jnp.asarray(found)))
    assert not lonely.diagonal().any() and not lonely[~alive].any()
    np.testing.assert_allclose(lonely[alive].sum(1), 1, atol=1e-6)


def test_initial_weights_have_the_bounds_that_they_should():
    tree = {"dense": {"kernel": jnp.zeros((50, 40)), "bias": jnp.ones(40)},
            "conv": {"kernel": jnp.zeros((3, 3, 8, 30)), "bias": jnp.ones(30)},
            "norm": {"scale": jnp.ones(40), "bias": jnp.ones(40)}}  # fmt: skip
    make = jax.jit(lambda key: independent(tree, key, nodes=3, gain=2.5))
    found = jax.tree.map(np.asarray, make(jax.random.key(0)))
    for name, fan_in in (("dense", 50), ("conv", 72)):
        kernel, bias = found[name]["kernel"], found[name]["bias"]
        np.testing.assert_allclose(np.abs(kernel).max(), 2.5 * np.sqrt(6 / fan_in), rtol=0.01)
        np.testing.assert_allclose(kernel.std(), 2.5 * np.sqrt(2 / fan_in), rtol=0.03)
        assert 0.8 / np.sqrt(fan_in) < np.abs(bias).max() <= 1 / np.sqrt(fan_in)
        assert len({leaf.tobytes() for leaf in kernel}) == 3
    assert (found["norm"]["scale"] == 1).all() and (found["norm"]["bias"] == 1).all()
    with pytest.raises(UserError, match="the gain is 0"):
        drawn(tree, jax.random.key(0), 0)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.full((3, 3), 0.3), "row 0 of mixing sums to 0.9; allowed: 1"),
        ([[1.0, 0.0], [0.5, 0.6]], "row 1 of mixing sums to 1.1"),
        ([[1.5, -0.5], [0.5, 0.5]], "negative"),
        ([[np.nan, 1.0], [0.5, 0.5]], "not finite"),
        (np.eye(2), None),
        (np.ones(3), "the shape (3,)"),
    ],
)
def test_what_is_no_mixing_matrix_is_one_line(matrix, said):
    if said is None:
        check_mixing(matrix, 2)
        return
    with pytest.raises(UserError) as error:
        check_mixing(matrix, len(matrix))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_has_no_gain_or_end_is_one_line():
    with pytest.raises(UserError, match="in 2 parts, node 2 never hears of node 0; connect them"):
        initialisation_gain(mixing_matrix(graphs.from_edges(4, [(0, 1), (2, 3)])))
    with pytest.raises(UserError, match="take turns"):
        rounds_to_mix(np.array([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(UserError, match="numbers of examples, 0 or more, of 3 nodes"):
        mixing_matrix(graphs.ring(3), [1, -2, 3])
    with pytest.raises(UserError, match="several ends"):
        influence([[1, 0, 0], [0.3, 0.4, 0.3], [0, 0, 1]])
