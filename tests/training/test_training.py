"""What a compiled epoch and an evaluation compute, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from epoch_oracle import Oracle
from small_runs import DIGITS, FEW, copy, make, start

from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.training import config, options
from dynhp_jax.training.run import loop, shape_plans
from dynhp_jax.training.step import evaluation, step
from dynhp_jax.training.step.optimizer import make_optimizer
from dynhp_jax.training.step.state import stream


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("l2", [0.0, 30.0])
def test_an_epoch_is_what_numpy_computes(per_example, l2):
    settings = make(
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=2.0, l2=l2),
        batch=config.Batch(size=16),
    )
    trainer, run = start(settings, FEW)
    oracle = Oracle(run.state, settings, 60, per_example)
    draw = step.make_draw(run.network, settings)
    names = ("input", "hidden_1", "hidden_2")

    order = jax.random.permutation(jax.random.fold_in(stream(settings.seed, "order"), 1), 60)
    masks = {name: np.ones(group.size, np.float32) for name, group in run.network.groups.items()}
    losses, penalties, counts = [], [], [0, 0, 0]
    for k in range(3):
        rows = np.asarray(order[16 * k : 16 * (k + 1)])
        log_alpha = dict(zip(names, (jnp.float32(a) for a in oracle.a), strict=True))
        z = draw(log_alpha, masks, run.given, k, 16)
        z = [np.asarray(z[name], np.float64) for name in names]
        counts = [c + np.atleast_2d(v > 0).sum(0) for c, v in zip(counts, z, strict=True)]
        x = FEW.x_train[rows].reshape(16, 64).astype(np.float64)
        cross_entropy, penalty = oracle.step(x, FEW.y_train[rows], z)
        losses.append(cross_entropy)
        penalties.append(penalty)

    state, tally = loop.train_epoch(trainer, run, 16, 1, 3)
    np.testing.assert_allclose(tally.data_loss, sum(losses), rtol=1e-4)
    np.testing.assert_allclose(tally.penalty, sum(penalties), rtol=1e-4)
    np.testing.assert_allclose(tally.loss, sum(losses) + sum(penalties), rtol=1e-4)
    for name, expected, log_alpha in zip(names, counts, oracle.a, strict=True):
        np.testing.assert_array_equal(tally.counts[name], expected)
        np.testing.assert_allclose(state.gates[name], log_alpha, atol=2e-4)
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        layer = state.variables["params"][name]
        np.testing.assert_allclose(layer["kernel"], oracle.w[k], atol=2e-4)
        np.testing.assert_allclose(layer["bias"], oracle.b[k], atol=2e-4)
    np.testing.assert_allclose(np.array(state.means[:4]), oracle.means, rtol=2e-4)
    assert int(state.step) == 3


def test_the_two_estimators_of_the_variance_give_the_same_run():
    found = {}
    for kind in ("norms", "vmap"):
        for per_example in (False, True):
            settings = make(
                batch=config.Batch(size=16, variance=kind),
                gates=config.Gates(per_example=per_example),
            )
            trainer, run = start(settings, FEW)
            state, tally = loop.train_epoch(trainer, run, 16, 1, 3)
            found[kind, per_example] = copy((state, tally))
    for per_example in (False, True):
        one, other = found["norms", per_example], found["vmap", per_example]
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_evaluation_counts_each_example_once_whatever_the_chunk():
    trainer, run = start(make())
    state, test = run.state, run.splits["test"]
    z = {name: hard_concrete.mean(value) for name, value in state.gates.items()}
    layers, x = state.variables["params"], np.asarray(test.inputs)
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        x = x * np.asarray(z[("input", "hidden_1", "hidden_2")[k]])
        x = x @ np.asarray(layers[name]["kernel"]) + np.asarray(layers[name]["bias"])
        x = np.maximum(x, 0) if k < 2 else x
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (DIGITS.y_test, x.argmax(1)), 1)
    for chunk in (7, 360, 5000):
        evaluate = evaluation.make_evaluation(run.network, chunk)
        arguments = (*state.evaluated, test.inputs, test.targets)
        parts = [evaluate(*arguments, i, 360) for i in range(-(-360 // chunk))]
        sums = jax.tree.map(lambda *parts: sum(parts), *parts)
        np.testing.assert_array_equal(sums["confusion"], expected)
        assert sums["metrics"]["error"] == 360 - np.trace(expected)
        logs = jax.nn.log_softmax(x)[np.arange(360), DIGITS.y_test]
        np.testing.assert_allclose(sums["loss"], -logs.sum(), rtol=1e-4)


def test_a_loop_on_the_host_trains_as_one_program_does():
    found = []
    for on_host in (False, True):
        trainer, run = start(make(), FEW)
        trainer.steps.on_host = on_host
        found.append(copy(loop.train_epoch(trainer, run, 16, 1, 3)))
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_resizing_changes_no_output_and_no_later_update():
    """float64: masked and resized agree, also after three more Adam steps with the same gates."""
    with jax.enable_x64(True):
        settings = make()
        trainer, run = start(settings)
        state, _ = loop.train_epoch(trainer, run, 16, 1, 3)
        state = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, state
        )
        rng = np.random.default_rng(0)
        masks = {name: (rng.random(m.shape) < 0.6).astype(float) for name, m in state.masks.items()}
        state = state._replace(masks=masks)
        keeps = {name: np.flatnonzero(mask) for name, mask in masks.items()}
        network, smaller = shape_plans.resize(run.network, state, trainer.tx, keeps)
        left = [len(keeps[name]) for name in ("input", "hidden_1", "hidden_2")]
        assert network.model.widths == (*left, 10)
        x = DIGITS.x_train[:32].reshape(32, 64).astype(float)
        y = DIGITS.y_train[:32]

        def outcome(network, state, images):
            apply = gated(network.evaluate, network.groups)
            trained = {"params": state.variables["params"], "gates": state.gates}
            opt_state, outputs = state.opt_state, []

            def loss(trained):
                z = {n: hard_concrete.mean(a) * state.masks[n] for n, a in trained["gates"].items()}
                logits = apply({"params": trained["params"]}, z, images)
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits

            @jax.jit
            def update(trained, opt_state):
                grads, logits = jax.grad(loss, has_aux=True)(trained)
                change, opt_state = trainer.tx.update(grads, opt_state, trained)
                return logits, optax.apply_updates(trained, change), opt_state

            for _ in range(4):
                logits, trained, opt_state = update(trained, opt_state)
                outputs.append(logits)
            return outputs

        whole = outcome(run.network, state, x)
        cut = outcome(network, smaller, x[:, keeps["input"]])
        for a, b in zip(whole, cut, strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", options.OPTIMIZERS)
def test_gates_may_have_a_step_size_of_their_own(name):
    one = make(optimizer=config.Optimizer(name, 0.01))
    other = dataclasses.replace(one, gates=config.Gates(learning_rate=0.03))
    trained = {"params": {"w": jnp.ones(3)}, "gates": {"units": jnp.ones(3)}}
    found = []
    for settings in (one, other):
        tx = make_optimizer(settings)
        state = tx.init(trained)
        for slope in (0.5, -2.0):
            gradients = jax.tree.map(lambda leaf, slope=slope: slope * leaf, trained)
            updates, state = tx.update(gradients, state, trained)
        found.append(updates)
    np.testing.assert_allclose(found[1]["params"]["w"], found[0]["params"]["w"], rtol=1e-6)
    np.testing.assert_allclose(
        found[1]["gates"]["units"], 3 * found[0]["gates"]["units"], rtol=1e-6
    )
