"""`train_pruned`: masked is small, budgets hold, what is sent is counted, and it goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dynhp_jax as dp
from dynhp_jax import decentralised as dec
from dynhp_jax.decentralised.pruned import exchange
from dynhp_jax.decentralised.pruned.node_program import Weights
from dynhp_jax.decentralised.pruned.size_classes import size_classes, units_in_class

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 6)).astype("f4"), RNG.integers(0, 3, 90).astype("i4")
PARTS = dec.placement.iid(Y[:60], 4, seed=0)
MIXING = dec.mixing_matrix(dec.graphs.ring(4), dec.placement.sizes_of(PARTS))


def plain(params, x):
    x = jax.nn.relu(x @ params["a"] + params["bias"])
    return jnp.tanh(x @ params["b"]) @ params["c"]


PARAMS = {
    "a": RNG.normal(size=(6, 8)), "bias": np.ones(8), "b": RNG.normal(size=(8, 5)) / 2,
    "c": RNG.normal(size=(5, 3)),
}  # fmt: skip
PARAMS = {name: value.astype("f4") for name, value in PARAMS.items()}
BUDGETS = [None, "700", 500, 900]


def run(variables=PARAMS, **changes):
    arguments = {
        "train": (X[:60], Y[:60]), "test": (X[60:], Y[60:]), "parts": PARTS, "mixing": MIXING,
        "rounds": 3, "local_epochs": 1, "batch": 8, "tx": optax.sgd(0.05), "meter": "paper",
        "budgets": BUDGETS,
    }  # fmt: skip
    return dec.train_pruned(plain, variables, **(arguments | changes))


def close(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_an_exchange_in_whole_arrays_is_one_of_small_arrays():
    """Against a loop over nodes whose arrays were cut, in float64."""
    groups = dp.find_groups(plain, PARAMS, X[:2]).select(("a", "b"))
    alive = {"a": RNG.random((4, 8)) < 0.6, "b": RNG.random((4, 5)) < 0.6}
    for mask in alive.values():
        mask[:, 0] = True
    keeps = [{name: np.flatnonzero(mask[k]) for name, mask in alive.items()} for k in range(4)]
    nodes = [{name: RNG.normal(size=leaf.shape).astype("f4") for name, leaf in PARAMS.items()}
             for _ in range(4)]  # fmt: skip
    small = [dp.cut(node, groups, keep) for node, keep in zip(nodes, keeps, strict=True)]

    def places(name, keep):  # where a node's small array lies in the whole one
        sizes = {"a": (range(6), keep["a"]), "bias": (keep["a"],), "b": (keep["a"], keep["b"]),
                 "c": (keep["b"], range(3))}  # fmt: skip
        return np.ix_(*sizes[name])

    expected = []
    for k in range(4):
        mine = {}
        for name, leaf in PARAMS.items():
            total, weight = np.zeros(leaf.shape), np.zeros(leaf.shape)
            for j in range(4):
                total[places(name, keeps[j])] += MIXING[k, j] * small[j][name].astype(float)
                weight[places(name, keeps[j])] += MIXING[k, j]
            mine[name] = (total / np.where(weight > 0, weight, 1))[places(name, keeps[k])]
        expected.append(mine)

    masks = {name: jnp.asarray(mask, jnp.float32) for name, mask in alive.items()}
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *nodes)
    stacked = exchange.without_dead(groups, stacked, masks)
    found = exchange.exchanged(
        dec.Coverage(), groups, False, Weights(stacked, {}), masks, masks, PARAMS,
        jnp.float32(MIXING), jnp.ones(4, bool),
    )  # fmt: skip
    for k in range(4):
        node = jax.tree.map(lambda leaf, k=k: leaf[k], found.variables)
        close(dp.cut(node, groups, keeps[k]), expected[k], 1e-6)
        assert all((node[name] == 0).sum() >= node[name].size - expected[k][name].size
                   for name in node)  # fmt: skip

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), PARAMS)
    known = exchange.masks_of(groups, stacked, masks)
    shared = exchange.numbers_shared(shapes, known, alive, gates=False)
    held = [sum(leaf.size for leaf in jax.tree.leaves(each)) for each in small]
    np.testing.assert_array_equal(np.diag(shared), held)
    both = {name: np.intersect1d(keeps[0][name], keeps[1][name]) for name in alive}
    assert shared[0, 1] == sum(leaf.size for leaf in dp.cut(nodes[0], groups, both).values())
    own, common = exchange.sent(MIXING, np.ones(4, bool), shared, np.array([1, 0, 0, 0]), 2)
    assert own[0] == 2 * (4 * held[0] + 2) and own[1] == 2 * 4 * held[1]
    assert common[0] == 4 * (shared[0, 1] + shared[0, 3]) + 4


@pytest.mark.parametrize("choice", [dec.Agreed(), dec.Rolling(step=2)])
def test_size_classes_and_masks_and_small_arrays_are_the_same(choice):
    masked, stacked = (run(choice=choice, classes=classes) for classes in (0, 3))
    close(masked.variables, stacked.variables, 1e-5)
    close(masked.log_alpha, stacked.log_alpha, 1e-4)
    last = stacked.records[-1]
    assert masked.compilations == 1 and stacked.compilations <= 3
    assert masked.records[-1]["units"] == last["units"]
    for node in range(4):
        apply, variables = stacked.node(node)
        sizes = {name: len(keep) for name, keep in stacked.keeps(node).items()}
        assert variables["params"]["b"].shape == (sizes["a"], sizes["b"])
        numbers = sum(leaf.size for leaf in jax.tree.leaves(variables))
        assert last["parameters"][node] == numbers
        assert last["bytes_held"][node] == 4 * (numbers + 6 * 8)
        limit = [10**9, 700, 500, 900][node]
        assert all(record["bytes_held"][node] <= limit for record in stacked.records)
        wrong = 100 * np.mean(np.argmax(apply(variables, X[60:]), 1) != Y[60:])
        assert last["test_error"][node] == pytest.approx(wrong)


def test_a_run_goes_on_bit_for_bit_and_smaller_batches_make_room(tmp_path):
    options = {"choice": dec.Own(), "least_batch": 2, "judge_every": 2, "rounds": 4}
    options["presence"] = dec.scenarios.leave(dec.scenarios.everybody(4, 4), [2], 1, 3)
    whole = run(workdir=tmp_path / "whole", **options)
    stops = iter([True, False])
    for stop in (lambda: next(stops), lambda: False):
        broken = run(workdir=tmp_path / "broken", stop=stop, **options)
    assert whole.records == broken.records
    assert all(map(np.array_equal, jax.tree.leaves(whole.variables),
                   jax.tree.leaves(broken.variables)))  # fmt: skip
    first, second, *_ = whole.records
    assert set(first["batch"]) <= {2, 4, 8} and min(first["batch"]) < 8
    assert second["bytes_sent"][2] == 0 and second["loss"][2] is None


def test_units_of_a_class_are_a_nodes_own_and_dead_ones():
    groups = dp.find_groups(plain, PARAMS, X[:2]).select(("a", "b"))
    alive = {"a": np.zeros((3, 8)), "b": np.ones((3, 5))}
    alive["a"][0, [1, 7]], alive["a"][1, [2, 3, 4]], alive["a"][2] = 1, 1, 1
    classes = size_classes(groups, alive, [4, 4, 4], most=2, steps=8)
    assert [each.nodes for each in classes] == [(0, 1), (2,)]
    assert dict(classes[0].widths) == {"a": 3, "b": 5}
    keeps = units_in_class(groups, alive, classes[0])
    assert [each["a"].tolist() for each in keeps] == [[0, 1, 7], [2, 3, 4]]
    (one,) = size_classes(groups, alive, [4, 4, 4], most=0)
    assert dict(one.widths) == {"a": 8, "b": 5}


def test_the_compiled_meter_grows_with_nodes():
    found = run(meter="compiled", budgets=None, choice=dec.Prefix(), rounds=1)
    (bytes_held,) = {*found.records[0]["bytes_held"]}
    tight = run(meter="compiled", budgets=bytes_held - 300, choice=dec.Prefix(), rounds=1)
    assert max(tight.records[0]["bytes_held"]) <= bytes_held - 300
    assert tight.records[0]["units"]["a"][0] < 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": 40}, "the budget of node 0 is 40 bytes, and with one unit of every group"),
        ({"budgets": [None, 100, 40, 100], "start": 2}, "the budget of node 1 is 100 bytes"),
        ({"budgets": [None] * 3}, "budgets has 3 entries; allowed: one for each of 4 nodes"),
        ({"budgets": 0}, "the budget of node 0 is 0"),
        ({"gain": 2.0}, "only once 3 rounds have mixed the weights; let start be 3 or more"),
        ({"rule": dec.DecAvg()}, "which DecAvg does not average; use Coverage()"),
        ({"least_batch": 9}, "least_batch is 9; allowed: 1 to 8"),
        ({"meter": "guess"}, "meter is 'guess'; allowed: compiled, paper"),
        ({"classes": -1}, "classes is -1"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_round(changes, said, tmp_path):
    with pytest.raises(dp.UserError) as error:
        run(workdir=tmp_path / "run", **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_coverage_beats_zeros_by_twenty_points_where_keeps_are_independent():
    digits = dp.data.load("digits")
    x, test = (each.reshape(len(each), -1) * 2.0 - 1 for each in (digits.x_train, digits.x_test))
    sizes = {"a": (64, 64), "bias": (64,), "b": (64, 32), "c": (32, 10)}
    params = dec.drawn({name: jnp.zeros(size) for name, size in sizes.items()}, jax.random.key(0))
    found = []
    for rule in (dec.Coverage(), dec.ZeroFilled()):
        result = run(
            variables=params, rule=rule, train=(x, digits.y_train), test=(test, digits.y_test),
            parts=dec.placement.iid(digits.y_train, 8, 0), rounds=12, batch=16, judge_every=12,
            mixing=dec.mixing_matrix(dec.graphs.complete(8)), budgets=[None, "30%"] * 4,
            choice=dec.Own(), gates=dec.Gating(lam=0.0, open_rate=0.97), classes=0,
            metrics={"accuracy": "accuracy"},
        )  # fmt: skip
        accuracy = np.array(result.records[-1]["test_accuracy"])
        found.append((accuracy[::2].mean(), accuracy[1::2].mean()))  # whole nodes, and small ones
    assert (np.array(found[0]) >= np.array(found[1]) + 20).all(), found
