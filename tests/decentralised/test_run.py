"""`train`: what it refuses, its records, and that it goes on bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import dynhp_jax as dp
from dynhp_jax.decentralised import (
    Coverage,
    DecDiff,
    DecHW,
    VirtualTeacher,
    graphs,
    mixing_matrix,
    placement,
    scenarios,
    train,
)
from dynhp_jax.decentralised.run import check_finite

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 6)).astype("f4"), RNG.integers(0, 3, 90).astype("i4")
PARTS = placement.iid(Y[:60], 4, seed=0)
MIXING = mixing_matrix(graphs.ring(4), placement.sizes_of(PARTS))


class Net(nn.Module):
    """With statistics beside the parameters, one of which is a whole number."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(5)(x))
        seen = self.variable("counts", "seen", lambda: jnp.int32(0))
        if train:
            seen.value += 1
        return nn.Dense(3)(nn.relu(x))


def plain(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


PARAMS = {"a": jnp.ones((6, 5)), "b": jnp.ones((5, 3))}


def run(model=plain, variables=PARAMS, **changes):
    arguments = {
        "train": (X[:60], Y[:60]), "test": (X[60:], Y[60:]), "parts": PARTS, "mixing": MIXING,
        "rounds": 4, "local_epochs": 1, "batch": 8, "tx": optax.adam(0.02),
    }  # fmt: skip
    return train(model, variables, **(arguments | changes))


def same_bits(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_run_that_goes_on_is_an_unbroken_one_bit_for_bit(tmp_path):
    options = {"judge_every": 2, "judged": 9, "restart_optimizer": False, "gain": 1.5}
    options |= {"rounds": 5, "presence": scenarios.leave(scenarios.everybody(5, 4), [2], 1, 3)}
    options |= {"rule": DecHW(examples=8), "model": Net(), "variables": None}
    whole = run(workdir=tmp_path / "whole", **options)
    stops = iter([True, False, False])
    for stop in (lambda: next(stops), lambda: False):
        seen = []
        broken = run(workdir=tmp_path / "broken", callbacks=[seen.append], stop=stop, **options)
    assert [record["round"] for record in seen] == [3, 4, 5]
    assert same_bits(whole.variables, broken.variables) and whole.records == broken.records
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1] and files[0].count(b"\n") == 5
    counts = whole.variables["counts"]["seen"]  # steps of each node, which are nobody's mean
    np.testing.assert_array_equal(counts, [10, 10, 6, 10])

    first, second, *_, last = whole.records
    assert first["loss"][2] and second["loss"][2] is None and second["alive"] == [1, 1, 0, 1]
    numbers = 6 * 5 + 5 + 4 * 5 + 5 * 3 + 3  # 4: scale, bias, mean, variance
    assert first["bytes_sent"] == [2 * 2 * 4 * numbers] * 4
    assert second["bytes_sent"] == [2 * 2 * 4 * numbers] + [2 * 4 * numbers, 0, 2 * 4 * numbers]
    assert "test_error" not in first and second["test_examples"] == 9
    assert last["test_examples"] == 30
    for node in range(4):
        logits = whole.apply(whole.node(node), X[60:])
        wrong = 100 * np.mean(np.argmax(logits, 1) != Y[60:])
        assert last["test_error"][node] == pytest.approx(wrong)

    with pytest.raises(dp.UserError, match="another --workdir"):
        run(workdir=tmp_path / "broken", **options | {"seed": 1})
    (tmp_path / "broken" / "metrics.jsonl").write_text("")
    with pytest.raises(dp.UserError, match="has 0 rounds, the newest checkpoint is of round 5"):
        run(workdir=tmp_path / "broken", **options)


FEW = [np.arange(3), np.arange(3), np.arange(0), np.arange(3)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixing": MIXING * 0.9}, "row 0 of mixing sums to 0.9; allowed: 1"),
        ({"mixing": np.eye(3)}, "mixing has the shape (3, 3); allowed: [4, 4]"),
        ({"mixing": np.stack([MIXING] * 3)}, "mixing has 3 rounds; allowed: one matrix, or 4"),
        ({"parts": FEW}, "node 2 of 4 has no example, there are 60 in all; take fewer nodes"),
        ({"parts": [np.arange(70)] * 4}, "from 0 to 59"),
        ({"parts": []}, "parts is empty"),
        ({"rounds": 0}, "rounds is 0; allowed: a whole number, 1 or more"),
        ({"batch": 2.5}, "batch is 2.5"),
        ({"presence": scenarios.everybody(3, 4)}, "presence.alive has the shape (3, 4)"),
        ({"keeps": [{}] * 4}, "DecAvg averages whole networks; use Coverage()"),
        ({"keeps": [{}] * 3, "rule": Coverage()}, "keeps has 3 entries"),
        ({"keeps": [{"x": np.arange(2)}] * 4, "rule": Coverage()}, "keeps: "),
        ({"keeps": [{}] * 4, "rule": Coverage(), "gain": 1.0}, "only once 3 rounds have mixed"),
        ({"devices": 3}, "devices is 3 for 4 nodes; allowed: a divisor of 4"),
        ({"tx": "sgd"}, "tx is a str"),
        ({"loss": "entropy"}, "there is no loss 'entropy'"),
        ({"test": (X[60:, :5], Y[60:])}, "bring both to one shape and type"),
        ({"train": (X[:60], Y[:60] + 7)}, "the targets of train run from 7 to 9"),
        ({"gain": 0.0}, "the gain is 0.0"),
        ({"variables": {"a": jnp.ones((6, 5))}}, "the model fails: KeyError: 'b'"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_any_round(changes, said, tmp_path):
    with pytest.raises(dp.UserError) as error:
        run(workdir=tmp_path / "run", **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_node_that_diverges_is_named():
    record = {"round": 7, "loss": [0.5, None, float("nan")]}
    with pytest.raises(dp.UserError, match="the loss of node 2 is nan in round 7; a smaller"):
        check_finite([record], None)


@pytest.mark.slow
def test_other_rules_and_losses_learn():
    x, y = X[:60] + 3 * np.eye(6, dtype="f4")[Y[:60]], Y[:60]
    for changes in ({"rule": DecDiff()}, {"rule": DecDiff("global")},
                    {"loss": VirtualTeacher(), "metrics": {"error": "error"}}):  # fmt: skip
        found = run(train=(x, y), test=(x, y), rounds=20, gain=1.0, judge_every=20, **changes)
        assert max(found.records[-1]["test_error"]) < 15
