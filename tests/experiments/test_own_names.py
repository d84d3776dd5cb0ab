"""Model, data, loss and optimizer of one's own, named at the command line."""

import json
import sys
import textwrap

import pytest
from command_lines import ROOT, fails, here, timeless

from experiments import compare, evaluate, sweep, train

MINE = """
    from pathlib import Path

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import linen as nn
    from flax import nnx
    from sklearn.datasets import load_diabetes, load_digits

    Path(__file__).with_suffix(".imported").touch()


    class Convolutional(nn.Module):
        channels: int = 4

        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.relu(nn.Conv(self.channels, (3, 3))(x)).reshape(len(x), -1)
            return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(nn.relu(nn.Dense(16)(x))))


    class Stateful(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.a, self.b = nnx.Linear(64, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.a(x.reshape(len(x), -1))))


    def plain(params, x):
        return jax.nn.tanh(x.reshape(len(x), -1) @ params["in"]) @ params["out"]


    def weights(inputs=64, hidden=16, outputs=10):
        draw = np.random.default_rng(0).normal
        return plain, {"in": draw(size=(inputs, hidden)).astype("f") / 8,
                       "out": draw(size=(hidden, outputs)).astype("f") / 4}


    def images():
        x, y = load_digits(return_X_y=True)
        x = np.float32(x / 16).reshape(-1, 8, 8, 1)
        return {"train": (x[:320], y[:320]), "test": (x[320:420], y[320:420]),
                "validation": (x[420:500], y[420:500])}


    def table():
        x, y = load_diabetes(return_X_y=True)
        x, y = np.float32(x * 20), np.float32((y - y.mean()) / y.std())
        return {"train": (x[:350], y[:350]), "test": (x[350:], y[350:])}


    def huber(outputs, targets):
        return optax.huber_loss(outputs[:, 0], targets)


    def clipped(rate=0.01):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
"""
FLAGS = [
    f"--config={ROOT}/configs/digits.py",
    "--config.model.hidden=()",
    "--config.data.name=mine:images",
    "--config.memory.budget=none",
    "--config.optimizer.name=mine:clipped(rate=0.003)",
    "--config.penalty.lam=1.0",
    "--config.gates.learning_rate=0.05",
    "--config.epochs=2",
]
MODELS = ("mine:Convolutional(channels=3)", "mine:Stateful", "mine:weights()")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_ones_own_is_trained_evaluated_and_goes_on(model, mine, capfd):
    whole, workdir = mine / "whole", mine / "run"
    flags = [*FLAGS, f"--config.model.name={model}"]
    code, _, said = here(capfd, train.main, *flags, "--config.epochs=3", f"--workdir={whole}")
    assert code == 0, said
    for epochs in (2, 3):
        more = (f"--config.epochs={epochs}", f"--workdir={workdir}")
        code, out, said = here(capfd, train.main, *flags, *more)
        assert code == 0, said
    assert "going on after epoch 2 of 3" in out
    assert timeless(workdir) == timeless(whole)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    code, out, said = here(capfd, evaluate.main, f"--workdir={workdir}", "--run_own_code")
    assert code == 0 and f"test error {last['test_error']:.2f} %" in out, said


def test_a_regression_by_flags_shows_its_own_metrics(mine, capfd):
    workdir = mine / "run"
    code, out, said = here(
        capfd, train.main, *FLAGS, "--config.model.name=mine:weights(inputs=10, outputs=1)",
        "--config.data.name=mine:table", "--config.loss.name=mine:huber",
        "--config.loss.metrics=('r2', 'absolute_error')", f"--workdir={workdir}",
    )  # fmt: skip
    assert code == 0, said
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"test r2 {last['test_r2']:.4g}" in out
    assert {"huber", "test_huber", "train_r2", "test_absolute_error"} <= last.keys()
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["test_r2"] == last["test_r2"] <= summary["best_test_r2"]
    assert (workdir / "figures" / "test_r2.png").exists()


def test_what_a_run_directory_names_is_imported_only_on_demand(mine, capfd):
    workdir, marker = mine / "run", mine / "mine.imported"
    flags = [*FLAGS, "--config.model.name=mine:Stateful", f"--workdir={workdir}"]
    assert here(capfd, train.main, *flags)[0] == 0
    marker.unlink()
    del sys.modules["mine"]
    said = fails(capfd, evaluate.main, f"--workdir={workdir}")
    assert "model.name='mine:Stateful', data.name='mine:images'" in said
    assert "add --run_own_code" in said and not marker.exists()


@pytest.mark.parametrize(
    "flag, words",
    [
        ("model.name=mine:Nothing", "model 'mine:Nothing': the module 'mine' has no 'Nothing'"),
        ("model.name=nowhere:Net", "there is no module 'nowhere'"),
        ("model.name=transformer", "'decoder', or module:object of your own"),
        ("model.name=mine:Convolutional(depth=3)", "unexpected keyword argument 'depth'"),
        ("model.name=mine:plain", "its variables are None; give its parameters"),
        ("data.name=mine:weights", "data 'mine:weights' gives a tuple; allowed: a dictionary"),
        ("data.name=mine:huber", "data 'mine:huber' fails: TypeError"),
        ("loss.metrics=('recall',)", "names among error, accuracy"),
        ("loss.best=recall", "what is best is 'recall'; allowed: one of error"),
        ("optimizer.name=mine:clipped", "is a function; allowed: an optax transformation"),
        ("optimizer.name=mine:huber(outputs=1, targets=2)", "optimizer 'mine:huber"),
    ],
)
def test_what_cannot_be_used_is_one_line(flag, words, mine, capfd):
    flags = [*FLAGS, "--config.model.name=mine:Stateful"]
    said = fails(capfd, train.main, *flags, f"--config.{flag}", f"--workdir={mine / 'run'}")
    assert words in said and not (mine / "run").exists()


def test_a_sweep_of_a_model_of_ones_own(mine, capfd):
    flags = [*FLAGS, "--config.model.name=mine:weights()", "--seeds=0,1"]
    folder = mine / "sweep"
    code, out, said = here(capfd, sweep.main, *flags, f"--workdir={folder}")
    assert code == 0 and "test error, %" in out, said
    flags[-1] = "--config.seed=1"
    code, _, said = here(capfd, train.main, *flags, f"--workdir={mine / 'alone'}")
    assert code == 0, said
    for one, other in zip(timeless(folder / "seed1"), timeless(mine / "alone"), strict=True):
        assert (one["units"], one["test_error"]) == (other["units"], other["test_error"])
    member = f"--workdir={folder / 'seed1'}"
    code, out, said = here(capfd, evaluate.main, member, "--run_own_code")
    assert code == 0 and f"test error {one['test_error']:.2f} %" in out, said
    flags[-1] = "--seeds=0,1"
    other = "--config.data.examples=300"
    said = fails(capfd, sweep.main, *flags, other, f"--workdir={folder}")
    assert "differs: config.data.examples" in said


def test_programs_of_classes_say_so(mine, capfd):
    said = fails(
        capfd, compare.main, f"--config={ROOT}/configs/compare_fmnist.py",
        "--config.data.name=digits", "--config.data.validation=0.2", "--config.model.name=mlp",
        "--config.data.examples=0", "--config.compare.test=0",
        "--config.model.hidden=(8,)", "--config.loss.metrics=('accuracy',)",
        f"--workdir={mine / 'runs'}", f"--results={mine / 'results'}",
    )  # fmt: skip
    assert "'error' in a comparison" in said
