"""Methods of training that replace parts of the step, from outside of the library."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from command_lines import fails, here, timeless
from own_extensions import Biases, Frozen, Nothing, Rounded, Wrong
from small_runs import DIGITS, FEW, copy, go_on, make
from small_runs import timeless as without_clocks

import dynhp_jax as dp
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, resume
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.sweep.team import Team
from experiments import evaluate, train

DENSE = make(method="dense", optimizer=config.Optimizer(name="sgd", learning_rate=0.1))


def start(settings, extension, dataset=DIGITS):
    trainer = Trainer(settings, dataset, Programs(), extension=extension)
    return trainer, trainer.start()


def test_an_extension_that_changes_nothing_changes_no_bit():
    found = []
    for extension in (None, Nothing()):
        run, records = go_on(*start(make(), extension), 3)
        found.append((copy(run.state._replace(own=())), without_clocks(records)))
    (state, records), (other, extended) = found
    jax.tree.map(np.testing.assert_array_equal, state, other)
    steps = np.cumsum([record["steps"] for record in records])
    assert [record.pop("extension_steps") for record in extended] == steps.tolist()
    for record in (*records, *extended):  # the number takes four bytes
        del record["allocated"], record["allocated_kib"]
    assert extended == records


def test_rows_that_an_epoch_does_not_train_stay_as_they_are():
    trainer, run = start(DENSE, Frozen(0.5))
    chosen = []
    for _ in range(2):
        before = jax.tree.leaves(copy(run.state.variables["params"]))
        run, _ = loop.advance(trainer, run)
        after = jax.tree.leaves(copy(run.state.variables["params"]))
        masks = [mask == 1 for mask in jax.tree.leaves(copy(run.state.own))]
        for old, new, mask in zip(before, after, masks, strict=True):
            np.testing.assert_array_equal(new[~mask], old[~mask])
        trained = [(o != n)[m].sum() for o, n, m in zip(before, after, masks, strict=True)]
        assert sum(trained) > sum(mask.sum() for mask in masks) / 2
        chosen.append(masks)
    assert any(np.any(one != other) for one, other in zip(*chosen, strict=True))


def test_what_is_kept_is_cut_with_the_units_and_a_run_goes_on_with_it(tmp_path):
    settings = make(
        epochs=5,
        gates=config.Gates(learning_rate=0.05),
        compiling=config.Compiling(shrink=0.1, ahead=False),
    )
    trainer, run = start(settings, Frozen(0.6))
    run, _ = go_on(trainer, run, 3)
    assert run.network.model.widths != trainer.whole.model.widths  # it was cut
    shapes = jax.tree.map(np.shape, run.state.variables["params"])
    assert jax.tree.map(np.shape, run.state.own["params"]) == shapes
    resume.save(trainer, run, tmp_path)
    saved = resume.newest(trainer, tmp_path)
    run, records = go_on(trainer, run, 2)
    again = Trainer(settings, DIGITS, Programs(), extension=Frozen(0.6))
    other, more = go_on(again, resume.run_of(again, saved), 2)
    assert without_clocks(more) == without_clocks(records)
    jax.tree.map(np.testing.assert_array_equal, copy(other.state), copy(run.state))


def test_the_gradient_passes_straight_through_the_rounding():
    """A step of SGD in NumPy: the gradient at rounded weights moves the weights themselves."""
    few = config.Batch(size=60)
    trainer, run = start(dataclasses.replace(DENSE, batch=few), Rounded(), FEW)
    params = jax.tree.map(np.float64, copy(run.state.variables["params"]))
    x = np.float64(FEW.x_train.reshape(60, -1))
    state, _ = loop.train_epoch(trainer, run, 60, 1, 1)
    names = ("hidden_1", "hidden_2", "output")
    rounded = jax.tree.map(lambda leaf: np.round(leaf * 8) / 8, params)
    inputs, back = [x], np.eye(10)[FEW.y_train]
    for name in names:
        layer = rounded[name]
        y = inputs[-1] @ layer["kernel"] + layer["bias"]
        inputs.append(np.maximum(y, 0) if name != "output" else y)
    shares = np.exp(inputs[-1] - inputs[-1].max(1, keepdims=True))
    delta = (shares / shares.sum(1, keepdims=True) - back) / 60
    for name, seen in zip(names[::-1], inputs[-2::-1], strict=True):
        expected = params[name]["kernel"] - 0.1 * seen.T @ delta
        np.testing.assert_allclose(state.variables["params"][name]["kernel"], expected, atol=2e-6)
        delta = (delta @ rounded[name]["kernel"].T) * (seen > 0)


def test_what_is_evaluated_has_rounded_weights():
    x, y = DIGITS.x_train.reshape(-1, 64), DIGITS.y_train
    held = (DIGITS.x_test.reshape(-1, 64), DIGITS.y_test)
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(64, 20)) / 8, "c": rng.normal(size=(20, 10)) / 4}
    params = jax.tree.map(np.float32, params)
    result = dp.fit(
        lambda params, x: jax.nn.relu(x @ params["a"]) @ params["c"], params, train=(x, y),
        test=held, config=make(epochs=2), extension=Rounded(),
    )  # fmt: skip
    left = result.keeps
    a, c = (np.round(np.float64(leaf) * 8) / 8 for leaf in jax.tree.leaves(result.variables))
    outputs = result.apply(result.variables, held[0])
    assert np.mean(np.argmax(outputs, 1) != held[1]) * 100 == pytest.approx(
        result.records[-1]["test_error"]
    )
    assert a.shape[1] == c.shape[0] == len(next(k for n, k in left.items() if n != "input"))


@pytest.mark.parametrize("method", ["dense", "hp"])
def test_only_what_is_trained_has_gradients_and_optimizer_state(method):
    settings = make(method=method, compiling=config.Compiling(shrink=0.1, ahead=False))
    trainer, run = start(settings, Biases())
    before = copy(run.state.variables["params"])
    run, _ = go_on(trainer, run, 3)
    local = {"output": {}, **{name: {} for name in before}}
    assert local.keys() == before.keys()
    names = ("input", "hidden_1", "hidden_2")
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        now, was = run.state.variables["params"][name], before[name]
        rows = run.keeps.get(names[k], np.arange(was["kernel"].shape[0]))
        columns = run.keeps.get((*names, "output")[k + 1], np.arange(was["kernel"].shape[1]))
        np.testing.assert_array_equal(now["kernel"], was["kernel"][np.ix_(rows, columns)])
        assert (np.asarray(now["bias"]) != was["bias"][columns]).any()
    moments = [leaf for leaf in jax.tree.leaves(run.state.opt_state) if np.ndim(leaf)]
    biases = 2 * sum(layer["bias"].size for layer in run.state.variables["params"].values())
    gates = 2 * sum(gate.size for gate in run.state.gates.values())
    assert sum(leaf.size for leaf in moments) == biases + gates


def test_its_step_is_metered_and_needs_less_for_the_optimizer():
    settings = make(method="dense", memory=config.Memory("xla", "none", sp_batch=64))
    sizes = []
    for extension in (None, Biases()):
        trainer, run = start(settings, extension)
        sizes.append(trainer.steps.training_bytes(trainer.whole, 64)["optimizer"])
    layers = run.state.variables["params"].values()
    kernels = sum(layer["kernel"].size for layer in layers)
    assert sizes[0] - sizes[1] == 2 * 4 * kernels


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, said",
    [
        ("start", "no start"),
        ("forward", "extension Wrong(part='forward') fails: "),
        ("observe", "what it keeps has an array float32[2] afterwards that was float32[3]"),
        ("evaluation", "NameError: name 'missing_name' is not defined"),
    ],
)
def test_an_extension_that_does_not_fit_is_named_before_training(part, said):
    with pytest.raises(UserError) as raised:
        start(DENSE, Wrong(part))
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "part, said",
    [
        ("begin_epoch", "what it keeps has an array float32[4] afterwards that was float32[3]"),
        ("record", "records extension_seen, which is NaN or infinite"),
    ],
)
def test_what_goes_wrong_between_epochs_is_said(part, said):
    trainer, run = start(DENSE, Wrong(part))
    with pytest.raises(UserError) as raised:
        loop.advance(trainer, run)
    assert said in str(raised.value)


def test_what_is_none_is_refused():
    with pytest.raises(UserError, match="the extension is a type; allowed: an object of a class"):
        start(DENSE, Nothing)

    @dataclasses.dataclass
    class Loose(dp.Extension.__mro__[1]):
        pass

    with pytest.raises(UserError, match="Loose; allowed"):
        start(DENSE, Loose())

    @dataclasses.dataclass(frozen=True)
    class Listed(dp.Extension):
        rows: list = dataclasses.field(default_factory=list)

    with pytest.raises(UserError, match="Listed cannot be hashed"):
        start(DENSE, Listed())


def test_norms_are_of_parameters_alone_and_a_sweep_takes_none():
    settings = make(batch=config.Batch(variance="norms"))
    with pytest.raises(ConfigError, match="where an extension trains other arrays"):
        start(settings, Biases())
    with pytest.raises(ConfigError, match="in a sweep"):
        Team([Config(extension="own_extensions:Nothing")] * 2, DIGITS, Programs())


# -- by name ---------------------------------------------------------------------------------------


def test_by_name_a_run_goes_on_and_is_evaluated(tmp_path, capfd):
    flags = [
        "--config=configs/digits.py", "--config.model.hidden=(12, 7)", "--config.method=hp",
        "--config.extension=own_extensions:Rounded",
    ]  # fmt: skip
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    code, _, said = here(capfd, train.main, *flags, "--config.epochs=3", f"--workdir={whole}")
    assert code == 0, said
    for epochs in (1, 3):
        more = (f"--config.epochs={epochs}", f"--workdir={workdir}")
        assert here(capfd, train.main, *flags, *more)[0] == 0
    assert timeless(workdir) == timeless(whole)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    said = fails(capfd, evaluate.main, f"--workdir={workdir}")
    assert "extension='own_extensions:Rounded'" in said
    code, out, said = here(capfd, evaluate.main, f"--workdir={workdir}", "--run_own_code")
    assert code == 0 and f"test error {last['test_error']:.2f} %" in out, said
    other = [*flags[:3], "--config.extension=own_extensions:Nothing", "--config.epochs=4"]
    said = fails(capfd, train.main, *other, f"--workdir={workdir}")
    assert "config.extension" in said
