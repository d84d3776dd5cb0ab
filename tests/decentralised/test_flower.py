"""Nodes far from each other: a member's rounds, and Flower's simulation, are the one program's."""

import importlib.util

import jax
import numpy as np
import optax
import pytest

from dynhp_jax import UserError, find_groups
from dynhp_jax.decentralised import Coverage, DecAvg, DecHW, Member, flower, graphs, mixing_matrix
from dynhp_jax.decentralised import train as train_all
from dynhp_jax.decentralised.flower import mixed

NODES, ROUNDS = 4, 3
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(90, 6)).astype("f4"), RNG.integers(0, 3, 90).astype("i4")
PARTS = [np.arange(0, 30), np.arange(30, 41), np.arange(41, 60), np.arange(60, 75)]
PARAMS = {"a": RNG.normal(size=(6, 5)).astype("f4"), "b": RNG.normal(size=(5, 3)).astype("f4")}
OPTIONS = {"tx": optax.sgd(0.1, momentum=0.5), "batch": 8, "local_epochs": 2, "seed": 4}


def apply(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def groups():
    return find_groups(lambda v, x: apply(v["params"], x), {"params": PARAMS}, X[:2])


def keeps():
    (hidden,) = (group.name for group, _ in groups().on_axis("params/a", 1))
    return [{hidden: np.array([0, 2, 4])}, {}, {hidden: np.array([1, 2])}, {}]


def graph_of(name):
    return {"complete": graphs.complete, "ring": graphs.ring}[name](NODES)


def together(mixing, rule, keeps=None, gain=None):
    """The one program: parameters of every node."""
    result = train_all(
        apply, PARAMS, train=(X[:75], Y[:75]), test=(X[75:], Y[75:]), parts=PARTS, mixing=mixing,
        rounds=ROUNDS, rule=rule, keeps=keeps, gain=gain, judge_every=ROUNDS, **OPTIONS,
    )  # fmt: skip
    return [result.node(k)["params"] for k in range(NODES)], result.records


def member(number, keeps=None, gain=None):
    part = PARTS[number]
    own = None if keeps is None else keeps[number]
    return Member(apply, PARAMS, data=(X[part], Y[part]), number=number, keeps=own, gain=gain,
                  **OPTIONS)  # fmt: skip


def assert_same(arrays, wanted, keeps=None):
    for node, (found, whole) in enumerate(zip(arrays, wanted, strict=True)):
        for axis, name in ((1, "a"), (0, "b")):
            kept = [*(keeps or [{}] * NODES)[node].values()] or [np.arange(5)]
            small = np.take(np.asarray(whole[name]), kept[0], axis)
            assert found[f"params/{name}"].shape == small.shape
            np.testing.assert_allclose(found[f"params/{name}"], small, atol=1e-6)


@pytest.mark.parametrize("cut", [False, True])
def test_members_that_exchange_are_the_one_program(cut):
    """Also with weights of their own, or with units of their own, which do not travel."""
    mixing = mixing_matrix(graph_of("ring"), list(map(len, PARTS)))
    own, rule, gain = (keeps(), Coverage(), None) if cut else (None, DecAvg(), 1.5)
    wanted, records = together(mixing, rule, own, gain)
    members = [member(number, own, gain) for number in range(NODES)]
    arrays = [each.arrays for each in members]
    shapes = {"params": PARAMS}
    for done in range(ROUNDS):
        arrays = mixed(rule, mixing, arrays, shapes, groups() if cut else None,
                       [each.keeps for each in members])  # fmt: skip
        arrays, losses = zip(
            *(each.train(mine, done) for each, mine in zip(members, arrays, strict=True)),
            strict=True,
        )
        np.testing.assert_allclose(losses, records[done]["loss"], rtol=1e-5)
    assert_same(arrays, wanted, own)


def flowing(number):
    """In a process of Flower's: the node of a number, with its units."""
    return member(number, keeps())


def whole_one(number):
    return member(number)


needs_flower = pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None or importlib.util.find_spec("ray") is None,
    reason="Flower is not installed: pip install -e '.[flower]'",
)


@needs_flower
@pytest.mark.parametrize("cut", [False, True])
def test_flowers_simulation_is_the_one_program(cut):
    from flwr.simulation import run_simulation

    mixing = mixing_matrix(graph_of("ring" if cut else "complete"), list(map(len, PARTS)))
    rule, records, ended = (Coverage() if cut else DecAvg()), [], []
    server = flower.server_app(
        {"params": PARAMS}, mixing, ROUNDS, rule, groups() if cut else None, records.append,
        ended.extend,
    )  # fmt: skip
    run_simulation(
        server, flower.client_app(flowing if cut else whole_one), NODES,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
    )  # fmt: skip
    own = keeps() if cut else None
    wanted, told = together(mixing, rule, own)
    assert_same(ended, wanted, own)
    for mine, theirs in zip(records, told, strict=True):
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)
        assert mine["alive"] == [1] * NODES


@needs_flower
def test_what_cannot_be_mixed_is_a_line():
    with pytest.raises(UserError, match="row 0 of mixing sums to 0.5"):
        flower.server_app(PARAMS, np.eye(2) / 2, 1)
    with pytest.raises(UserError, match="DecHW needs evidence"):
        flower.server_app(PARAMS, np.eye(2), 1, DecHW())


@pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed")
def test_without_flower_a_line_says_how_to_get_it():
    for make in (lambda: flower.client_app(member), lambda: flower.server_app(PARAMS, [[1]], 1)):
        with pytest.raises(UserError, match="not installed; pip install -e"):
            make()
