"""`dp.fit`: models, data, losses and optimizers that the library has never seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from sklearn.datasets import load_diabetes, load_digits

import dynhp_jax as dp
from dynhp_jax import data
from dynhp_jax.common import random_keys
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import stream

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
TRAIN, TEST = (X[:640], Y[:640]), (X[640:900], Y[640:900])
PRUNING = config.Config(
    method="dynhp",
    epochs=4,
    penalty=config.Penalty(lam=0.5),
    gates=config.Gates(learning_rate=0.02),
    memory=config.Memory(budget="none"),
)

EXACT = ("units", "batch_size", "next_batch", "parameters", "materialised", "steps")


def layered(params, x):  # a plain function, [batch, features] -> [batch, outputs]
    return jax.nn.tanh(x @ params["a"] + params["b"]) @ params["c"]


def weights(inputs, hidden, outputs):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "a": jax.random.normal(keys[0], (inputs, hidden)) / np.sqrt(inputs),
        "b": jnp.zeros(hidden),
        "c": jax.random.normal(keys[1], (hidden, outputs)) / np.sqrt(hidden),
    }


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(nn.relu(nn.Dense(24)(x)))


class Stateful(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)])
        self.norm, self.dropout = nnx.BatchNorm(32, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.relu(self.norm(self.layers[0](x)))))


class Language(nn.Module):
    words: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.words, 16)(tokens) + nn.Embed(12, 16)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h, mask=mask)
        x = x + nn.Dense(16)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(self.words)(nn.LayerNorm()(x))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(24, name="in")(x)
        x = x + nn.Dense(24)(nn.relu(nn.LayerNorm()(x)))
        return nn.Dense(10)(nn.LayerNorm()(x))


def timeless(records):
    clocks = dict.fromkeys(("seconds", "compile_seconds", "compilations", "device_peak_kib"))
    return [record | clocks for record in records]


def check(result, inputs, targets):
    """The result has lost units, its arrays are small, and it is what was evaluated last."""
    whole = {name: group.size for name, group in result.groups.items()}
    left = {name: kept.size for name, kept in result.keeps.items()}
    assert left == result.records[-1]["units"] and sum(left.values()) < sum(whole.values())
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(result.variables["params"])]
    assert sum(sizes) == result.records[-1]["parameters"]
    outputs = jax.jit(result.apply)(result.variables, inputs)
    wrong = 100 * np.mean(np.argmax(outputs, -1) != targets)
    assert wrong == pytest.approx(result.records[-1]["test_error"], abs=1e-3)
    return outputs


def test_the_width_under_layer_norms_is_pruned_where_their_statistics_are_those_of_the_whole():
    result = dp.fit(Normed(), train=TRAIN, test=TEST, config=PRUNING, statistics="whole")
    kept = result.keeps["in"].size
    assert kept < 24 and result.variables["params"]["LayerNorm_0"]["scale"].shape == (kept,)
    check(result, *TEST)
    with pytest.raises(UserError, match="statistics is 'all'; allowed: 'left', 'whole'"):
        dp.fit(Normed(), train=TRAIN, test=TEST, config=PRUNING, statistics="all")


def test_a_linen_cnn_in_a_byte_budget_with_an_optimizer_of_ones_own():
    images = [(x.reshape(-1, 8, 8, 1), y) for x, y in (TRAIN, TEST)]
    seen = []
    result = dp.fit(
        Convolutional(),
        train=images[0],
        test=images[1],
        tx=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3)),
        config=dataclasses.replace(PRUNING, memory=config.Memory("xla", "1MiB")),
        callbacks=[seen.append],
    )
    check(result, *images[1])
    assert seen == result.records and len(seen) == 4
    assert all(record["allocated_kib"] <= 1024 for record in seen)
    assert "batch_stats" in result.variables


def test_an_nnx_module_with_statistics_and_dropout():
    module = Stateful(nnx.Rngs(0))
    result = dp.fit(module, train=TRAIN, test=TEST, config=PRUNING)
    check(result, *TEST)
    again = dp.fit(Stateful(nnx.Rngs(0)), train=TRAIN, test=TEST, config=PRUNING)
    clocks = {"seconds", "compile_seconds", "compilations", "device_peak_kib"}
    for one, other in zip(result.records, again.records, strict=True):
        assert {k: one[k] for k in one.keys() - clocks} == {
            k: other[k] for k in other.keys() - clocks
        }


def test_a_plain_function_is_pruned_and_a_dense_run_keeps_all():
    params = weights(64, 24, 10)
    check(dp.fit(layered, params, train=TRAIN, test=TEST, config=PRUNING), *TEST)
    asked = dataclasses.replace(PRUNING, method="dense", epochs=1)
    dense = dp.fit(layered, params, train=TRAIN, test=TEST, config=asked)
    assert dense.keeps == {} and dense.records[-1]["parameters"] == 64 * 24 + 24 + 240


def test_a_module_handed_in_trains_as_the_shipped_network_does():
    """Same seed, weights and data, same numbers, though arrays become smaller in another way."""
    digits = data.load("digits", flat=True)
    settings = dataclasses.replace(
        PRUNING, epochs=6, penalty=config.Penalty(lam=2.0), model=config.Model(hidden=(24,))
    )
    trainer = Trainer(settings, digits, Programs())
    drawn = trainer.whole.model.init(random_keys.fused(stream(settings.seed, "params")))
    run, expected = trainer.start(), []
    for _ in range(settings.epochs):
        run, record = loop.advance(trainer, run)
        expected.append(record)
    result = dp.fit(
        trainer.whole.model.module(),
        drawn,
        train=(digits.x_train, digits.y_train),
        test=(digits.x_test, digits.y_test),
        config=settings,
    )
    assert expected[-1]["parameters"] < expected[-1]["materialised"] < expected[0]["materialised"]
    for one, other in zip(expected, result.records, strict=True):
        assert [one[k] for k in EXACT] == [other[k] for k in EXACT]
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], rel=1e-4)


def test_a_regression_net_with_named_metrics():
    x, y = load_diabetes(return_X_y=True)
    x, y = (x * 20).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)
    result = dp.fit(
        layered,
        weights(10, 48, 1),
        train=(x[:350], y[:350]),
        test=(x[350:], y[350:]),
        loss=dp.losses.mean_squared_error,
        metrics={"r2": "r2", "off": lambda outputs, targets: jnp.abs(outputs[:, 0] - targets)},
        config=dataclasses.replace(PRUNING, epochs=8),
    )
    last, outputs = result.records[-1], np.asarray(result.apply(result.variables, x[350:]))[:, 0]
    apart = outputs - y[350:]
    assert last["test_mean_squared_error"] == pytest.approx((apart**2).mean(), rel=1e-3)
    assert last["test_off"] == pytest.approx(np.abs(apart).mean(), rel=1e-3)
    spread = ((y[350:] - y[350:].mean()) ** 2).mean()
    assert last["test_r2"] == pytest.approx(1 - (apart**2).mean() / spread, abs=1e-3)
    assert last["test_r2"] > 0.2, "it has learned something"


def test_a_transformer_on_sequences_of_tokens():
    text = " ".join(["the quick brown fox jumps over the lazy dog"] * 40)
    letters = sorted(set(text))
    ids = np.array([letters.index(letter) for letter in text], np.int32)
    windows = np.stack([ids[k : k + 13] for k in range(len(ids) - 13)])
    tokens, following = windows[:, :-1], windows[:, 1:]
    result = dp.fit(
        Language(len(letters)),
        train=(tokens[:640], following[:640]),
        test=(tokens[640:800], following[640:800]),
        config=dataclasses.replace(PRUNING, penalty=config.Penalty(lam=0.1)),
    )
    check(result, tokens[640:800], following[640:800])
    assert not any("Embed" in name for name in result.keeps), "a vocabulary is left alone"


def test_inputs_that_are_a_pytree():
    def apply(params, inputs):
        both = jnp.concatenate([inputs["left"] @ params["l"], inputs["right"] @ params["r"]], 1)
        return jax.nn.relu(both) @ params["out"]

    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"l": (32, 12), "r": (32, 12), "out": (24, 10)}
    params = {
        n: jax.random.normal(k, s) / 5 for k, (n, s) in zip(keys, shapes.items(), strict=True)
    }
    halves = [({"left": x[:, :32], "right": x[:, 32:]}, y) for x, y in (TRAIN, TEST)]
    result = dp.fit(apply, params, train=halves[0], test=halves[1], config=PRUNING)
    check(result, *halves[1])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"train": TRAIN[0]}, r"train is a ndarray; allowed: \(inputs, targets\)"),
        ({"train": (X[:5], Y[:4])}, r"train has arrays of shapes \(5, 64\), \(4,\)"),
        ({"train": (X[:0], Y[:0])}, "at least one example"),
        (
            {"test": (X[:5, :3], Y[:5])},
            r"of test is float32\[3\], .* train is float32\[64",
        ),
        ({"train": (np.array(["a"]), Y[:1])}, "train holds what is no array of numbers"),
        ({"model": 5}, "the model is a int; allowed: a function"),
        ({"variables": None}, "its variables are None; give its parameters"),
        ({"loss": "entropy"}, "there is no loss 'entropy'"),
        ({"config": {"epochs": 3}}, r"config is a dict; allowed: dp.Config\(...\)"),
        ({"tx": 5}, "tx is a int; allowed: an optax transformation"),
        ({"loss": lambda o, t: o.nothing}, "the loss 'lambda' fails: AttributeError"),
        ({"loss": lambda o, t: jnp.mean(o)}, r"'lambda' gives float32\[\] for 3 .* \[batch\]"),
        ({"metrics": {"m": lambda o, t: o.sum()}}, r"the metric 'm' gives float32\[\]"),
        ({"variables": weights(60, 8, 10)}, "the model fails: TypeError: dot_general requires"),
        ({"variables": weights(64, 8, 5)}, "targets of train run from 0 to 9; allowed: 0 to 4"),
        ({"variables": {"a": np.ones((64, 10), int)}}, r"the parameter 'a' is int.*\[64, 10\]"),
        ({"model": lambda p, x: float(x.sum()) * x}, "the model fails: .*Concret"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_epoch(change, words):
    given = {"model": layered, "variables": weights(64, 8, 10), "train": TRAIN, "test": TEST}
    given |= {"config": PRUNING} | change
    with pytest.raises(UserError, match=words):
        dp.fit(given.pop("model"), given.pop("variables"), **given)


def test_what_a_task_lacks_is_said_with_the_field():
    regression = {"loss": "mean_squared_error", "train": (X[:50], X[:50, :1])}
    regression |= {"test": regression["train"], "variables": weights(64, 8, 1)}
    asked = dataclasses.replace(
        PRUNING,
        optimizer=config.Optimizer(ema=1.0),
        distillation=config.Distillation(weight=0.5),
    )
    with pytest.raises(ConfigError, match="distillation.weight is 0.5; .* 'mean_squared_error'"):
        dp.fit(layered, config=asked, **regression)


def test_a_run_in_a_directory_goes_on_as_if_it_had_never_stopped(tmp_path):
    given = {"train": TRAIN, "test": TEST, "validation": (X[900:1000], Y[900:1000])}
    params, folder = weights(64, 24, 10), tmp_path / "run"
    whole = dp.fit(layered, params, config=PRUNING, **given)
    short = dataclasses.replace(PRUNING, epochs=2)
    dp.fit(layered, params, config=short, workdir=folder, **given)
    seen = []
    result = dp.fit(
        layered, params, config=PRUNING, workdir=folder, callbacks=[seen.append], **given
    )
    assert timeless(result.records) == timeless(whole.records) and len(seen) == 2
    for one, other in zip(
        jax.tree.leaves(result.variables), jax.tree.leaves(whole.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert (folder / "summary.json").exists() and (folder / "figures" / "test_error.png").exists()

    for change in ({"test": (X[900:1000], Y[900:1000])}, {"metrics": {"hits": "accuracy"}}):
        with pytest.raises(UserError, match="run of another model, data, loss or metrics"):
            dp.fit(layered, params, config=PRUNING, workdir=folder, **given | change)
    with pytest.raises(UserError, match="a run of another config; what differs: config.seed"):
        other = dataclasses.replace(PRUNING, seed=1)
        dp.fit(layered, params, config=other, workdir=folder, **given)
    with pytest.raises(UserError, match="run of another model, data, loss or metrics"):
        dp.fit(layered, weights(64, 25, 10), config=PRUNING, workdir=folder, **given)


def test_tied_weights_have_no_norms_and_are_trained_all_the_same():
    """One kernel that is used twice: the variance is that of micro-batches."""

    def tied(params, x):
        h = jax.nn.tanh(x @ params["in"])
        return jax.nn.tanh(h @ params["in"].T @ params["in"]) @ params["out"]

    keys = jax.random.split(jax.random.key(2), 2)
    params = {"in": jax.random.normal(keys[0], (64, 16)) / 8}
    params["out"] = jax.random.normal(keys[1], (16, 10)) / 4
    result = dp.fit(tied, params, train=TRAIN, test=TEST, config=PRUNING)
    assert result.records[-1]["cross_entropy"] < result.records[0]["cross_entropy"]
    assert all(record["grad_variance"] > 0 for record in result.records)
