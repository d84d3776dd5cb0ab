"""The compiled rounds: against NumPy in float64, and whatever must change nothing in them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynhp_jax import find_groups
from dynhp_jax.decentralised import Coverage, DecAvg, graphs, mixing_matrix, units_of
from dynhp_jax.decentralised.local_training import Examples, Learning, Node
from dynhp_jax.decentralised.rounds import Rounds, Schedule, State
from dynhp_jax.tasks.task import task_of
from dynhp_jax.training.own_model import Functions

from . import oracle

NODES, SLOTS, EPOCHS, BATCH, RATE, MOMENTUM = 6, 3, 2, 4, 0.3, 0.5
COUNTS = np.array([8, 3, 11, 0, 6, 5])  # a short last batch, less than one, none at all
GRAPH = graphs.from_edges(NODES, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (4, 5)])
RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(40, 5)).astype("f4"), RNG.integers(0, 3, 40).astype("i4")
KEY = jax.random.key(11)
HELD = np.zeros((NODES, 11), np.int32)  # the examples' numbers, zeros behind them
for node, size in enumerate(COUNTS):
    HELD[node, :size] = RNG.permutation(28)[:size]
STACKED = {
    "a": RNG.normal(size=(NODES, 5, 6)).astype("f4"),
    "b": RNG.normal(size=(NODES, 6)).astype("f4"),
    "c": RNG.normal(size=(NODES, 6, 3)).astype("f4"),
    "d": np.zeros((NODES, 3), "f4"),
}
NOBODY = np.zeros(SLOTS, np.int32)


def apply(variables, x):
    p = variables["params"]
    return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"] + p["d"]


FUNCTIONS = Functions(apply, lambda variables, x, key: (apply(variables, x), {}), draws=False)


@dataclasses.dataclass
class Machine:
    """One compiled program, and runs of it."""

    rounds: Rounds
    program: Any

    def run(self, mixing=None, alive=None, trains=None, judged=NOBODY, nodes=None, calls=(SLOTS,),
            params=STACKED):  # fmt: skip
        """(state, losses [rounds, nodes], sums) of calls of so many rounds each."""
        everybody = np.ones((SLOTS, NODES), bool)
        alive = everybody if alive is None else alive
        trains = everybody if trains is None else trains
        mixing = mixing_matrix(GRAPH, COUNTS) if mixing is None else mixing
        nodes = nodes or Node(np.arange(NODES, dtype=np.int32), HELD, COUNTS.astype("i4"))
        nodes = jax.tree.map(jnp.asarray, nodes)
        data = jax.tree.map(jnp.asarray, Examples(X, Y, X[28:], Y[28:]))
        state, losses, sums = self.rounds.start({"params": params}, nodes), [], []
        first = 0
        for count in calls:
            some = [np.concatenate([each[first:], each[:first]]) for each in (alive, trains)]
            schedule = Schedule(mixing.astype("f4"), *some, np.roll(judged, -first))
            state, seen = self.program(state, KEY, nodes, data, schedule, np.int32(count))
            losses.append(np.asarray(seen.loss)[:count])
            sums.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], seen.sums))
            first += count
        return state, np.concatenate(losses), sums


@pytest.fixture(scope="module")
def machine():
    return made()


def made(tx=None, rule=DecAvg(), **options):  # noqa: B008
    tx = tx or optax.sgd(RATE, momentum=MOMENTUM)
    learning = Learning(FUNCTIONS, task_of("cross_entropy"), tx, BATCH, EPOCHS, judged=4)
    rounds = Rounds(learning, rule, **options)
    return Machine(rounds, rounds.program())


def expected(graph, counts, numbers, alive=None, trains=None):
    """The same in NumPy: parameters of every node after SLOTS rounds, and the losses."""
    everybody = [oracle.weights_of({k: v[n] for k, v in STACKED.items()}) for n in numbers]
    losses = []
    for done in range(SLOTS):
        here = [True] * len(numbers) if alive is None else alive[done]
        working = [True] * len(numbers) if trains is None else trains[done]
        edges = np.array(graph) & np.outer(here, here)
        mixed = oracle.decavg(edges, [counts[n] for n in numbers], everybody)
        everybody = [new if is_here else old
                     for new, old, is_here in zip(mixed, everybody, here, strict=True)]  # fmt: skip
        of_round = []
        for place, number in enumerate(numbers):
            seen = []
            if working[place]:
                seen = oracle.orders(
                    KEY, number, done, EPOCHS, jnp.asarray(HELD[number]), COUNTS[number]
                )
            everybody[place], loss = oracle.train(
                everybody[place], X.astype("f8"), Y, seen, BATCH, RATE, MOMENTUM
            )
            of_round.append(loss)
        losses.append(of_round)
    return everybody, np.array(losses)


def assert_nodes(state, wanted, places=range(NODES), tolerance=1e-5):
    for place, params in zip(places, wanted, strict=True):
        for name, value in params.items():
            found = np.asarray(state.variables["params"][name][place])
            np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance)


def same_bits(one, other):
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other),
                                             strict=True)
    )  # fmt: skip


def test_three_rounds_are_those_of_numpy(machine):
    state, losses, _ = machine.run()
    wanted, told = expected(GRAPH, COUNTS, range(NODES))
    assert_nodes(state, wanted)
    np.testing.assert_allclose(losses, told, rtol=1e-5, atol=1e-5)
    assert np.isnan(losses[:, 3]).all()  # nothing to train on


def test_rounds_in_one_call_are_as_many_calls_bit_for_bit(machine):
    judged = np.array([0, 12, 7], np.int32)
    at_once, losses, (sums,) = machine.run(judged=judged)
    in_turn, again, several = machine.run(judged=judged, calls=(1, 1, 1))
    assert same_bits(at_once, in_turn)
    np.testing.assert_array_equal(losses, again)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *several)
    assert same_bits(sums, joined)
    assert not sums["loss"][0].any() and sums["loss"][1].all()


def test_judging_counts_the_first_examples_only(machine):
    state, _, (sums,) = machine.run(judged=np.array([0, 0, 7], np.int32))
    for node in range(NODES):
        params = {name: np.asarray(leaf[node]) for name, leaf in state.variables["params"].items()}
        logits = np.maximum(X[28:35] @ params["a"] + params["b"], 0) @ params["c"] + params["d"]
        assert sums["error"][2, node] == np.sum(logits.argmax(1) != Y[28:35])
        _, loss = oracle.gradients(oracle.weights_of(params), X[28:35].astype("f8"), Y[28:35])
        np.testing.assert_allclose(sums["loss"][2, node] / 7, loss, rtol=1e-5)


def test_an_isolated_node_trains_as_if_alone(machine):
    alive = np.ones((SLOTS, NODES), bool)
    alive[:, 2] = False
    state, _, _ = machine.run(alive=alive)
    alone, _ = expected(np.zeros((1, 1), bool), COUNTS, [2])
    assert_nodes(state, alone, [2])


def test_a_dead_node_is_a_removed_one_and_stays_as_it_was(machine):
    there = np.ones((SLOTS, NODES), bool)
    there[:, 1] = False
    state, _, _ = machine.run(alive=there, trains=there)
    left = [0, 2, 3, 4, 5]
    wanted, _ = expected(GRAPH[np.ix_(left, left)], COUNTS, left)
    assert_nodes(state, wanted, left)
    kept = {name: leaf[1] for name, leaf in state.variables["params"].items()}
    assert same_bits(kept, {name: leaf[1] for name, leaf in STACKED.items()})


def test_nodes_leave_and_return_and_lose_their_data(machine):
    alive, trains = np.ones((2, SLOTS, NODES), bool)
    alive[1, [0, 4]] = trains[1, 0] = trains[0, 2] = False
    state, losses, _ = machine.run(alive=alive, trains=trains)
    wanted, told = expected(GRAPH, COUNTS, range(NODES), alive, trains)
    assert_nodes(state, wanted)
    np.testing.assert_allclose(losses, told, rtol=1e-5, atol=1e-5)


def test_without_examples_nothing_changes_at_all(machine):
    alive = np.zeros((SLOTS, NODES), bool)
    state, _, _ = machine.run(alive=alive)
    kept = {name: leaf[3] for name, leaf in state.variables["params"].items()}
    assert same_bits(kept, {name: leaf[3] for name, leaf in STACKED.items()})


def test_the_order_of_the_nodes_changes_nothing(machine):
    order = np.array([3, 0, 5, 4, 2, 1])
    mixing = mixing_matrix(GRAPH, COUNTS)
    moved = Node(order.astype("i4"), HELD[order], COUNTS[order].astype("i4"))
    params = {name: leaf[order] for name, leaf in STACKED.items()}
    state, losses, _ = machine.run(mixing[np.ix_(order, order)], nodes=moved, params=params)
    other, told, _ = machine.run()
    np.testing.assert_allclose(losses, told[:, order], rtol=1e-5, equal_nan=True)
    for name, leaf in other.variables["params"].items():
        np.testing.assert_allclose(state.variables["params"][name], leaf[order], atol=2e-6)


def test_graphs_churn_and_rounds_compile_nothing(machine):
    machine.run()
    machine.run(mixing_matrix(graphs.complete(NODES)), calls=(2, 1))
    machine.run(alive=np.zeros((SLOTS, NODES), bool), judged=np.array([3, 0, 12], np.int32))
    assert machine.program._cache_size() == 1


def test_one_node_after_the_other_is_all_together():
    """Also with an optimizer whose state is kept, and a matrix for every round."""
    matrices = np.stack([mixing_matrix(graphs.ring(NODES)), mixing_matrix(GRAPH, COUNTS),
                         mixing_matrix(graphs.complete(NODES))])  # fmt: skip
    found = []
    for at_once in (0, 1):
        machine = made(optax.adam(0.01), restart=False, at_once=at_once)
        state, losses, _ = machine.run(matrices)
        found.append((state, losses))
    (one, losses), (other, again) = found
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    steps = SLOTS * EPOCHS * -(-COUNTS // BATCH)
    assert isinstance(one, State) and np.array_equal(one.opt_state[0].count, steps)


def test_nodes_without_some_units_are_small_networks():
    """In NumPy each node's arrays have its own sizes, and a receiver puts in place what arrives."""
    shapes = {name: leaf[0] for name, leaf in STACKED.items()}
    groups = find_groups(apply, {"params": shapes}, X[:2])
    (hidden,) = (group.name for group, _ in groups.on_axis("params/a", 1))
    rng = np.random.default_rng(3)
    keeps = [np.sort(rng.choice(6, size, replace=False)) for size in (6, 2, 4, 3, 1, 5)]
    keeps[0] = np.arange(6)
    units = units_of({"params": shapes}, groups, [{hidden: keep} for keep in keeps])
    nodes = Node(np.arange(NODES, dtype=np.int32), HELD, COUNTS.astype("i4"), units)
    state, losses, _ = made(rule=Coverage()).run(nodes=nodes)

    axes = {"a": 1, "b": 0, "c": 0}
    small = []
    for node, keep in enumerate(keeps):
        whole = oracle.weights_of({name: leaf[node] for name, leaf in STACKED.items()})
        small.append(whole | {name: whole[name].take(keep, axis) for name, axis in axes.items()})
    told = []
    for done in range(SLOTS):
        small = oracle.coverage(mixing_matrix(GRAPH, COUNTS), small, keeps, axes, 6)
        of_round = []
        for node in range(NODES):
            seen = oracle.orders(KEY, node, done, EPOCHS, jnp.asarray(HELD[node]), COUNTS[node])
            small[node], loss = oracle.train(
                small[node], X.astype("f8"), Y, seen, BATCH, RATE, MOMENTUM
            )
            of_round.append(loss)
        told.append(of_round)
    np.testing.assert_allclose(losses, told, rtol=1e-5, atol=1e-5)
    for node, keep in enumerate(keeps):
        for name, value in small[node].items():
            found = np.asarray(state.variables["params"][name][node])
            if name in axes:
                lost = np.setdiff1d(np.arange(6), keep)
                assert not found.take(lost, axes[name]).any()
                found = found.take(keep, axes[name])
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


def test_squared_gradients_are_those_of_single_examples():
    learning = made().rounds.learning
    data = jax.tree.map(jnp.asarray, Examples(X, Y, X[28:], Y[28:]))
    node = jax.tree.map(jnp.asarray, Node(np.int32(0), HELD[0], np.int32(COUNTS[0])))
    params = {name: jnp.asarray(leaf[0]) for name, leaf in STACKED.items()}
    find = jax.jit(
        lambda params: learning.squared_gradients({"params": params}, node, KEY, data, 8)
    )
    found = find(params)["params"]
    own = [oracle.gradients(oracle.weights_of(params), X[[k]].astype("f8"), Y[[k]])[0]
           for k in HELD[0, :8]]  # fmt: skip
    for name in STACKED:
        wanted = sum(each[name] ** 2 for each in own)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-7)
