"""A run that learns from its own mean: the loss by hand, and how much its gradients vary."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import FEW, NAMES, copy, make, start

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.gates import hard_concrete
from dynhp_jax.training import config
from dynhp_jax.training.run import loop
from dynhp_jax.training.step import step
from dynhp_jax.training.step.input_noise import make_perturb
from dynhp_jax.training.step.state import stream
from dynhp_jax.training.step.teacher import distillation_losses


def taught(**changes):
    settings = {
        "gates": config.Gates(per_example=True),
        "optimizer": config.Optimizer(learning_rate=5e-3, ema=0.5),
        "distillation": config.Distillation(weight=0.7, temperature=3.0, start=1),
        "data": config.Data(noise=0.3),
        "batch": config.Batch(size=16),
    }
    return make(**{**settings, **changes})


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def by_hand(logits, labels, teacher, weight, temperature):
    wanted, found = softmax(teacher / temperature), softmax(logits / temperature)
    apart = (wanted * np.log(wanted / found)).sum(-1)
    plain = -np.log(softmax(logits)[np.arange(len(labels)), labels])
    return (1 - weight) * plain + weight * temperature**2 * apart


def test_the_loss_against_numpy():
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(0, 3, (2, 20, 10))
    labels = rng.integers(0, 10, 20)
    for weight, temperature in ((0.0, 2.0), (0.4, 1.0), (1.0, 4.0)):
        found = distillation_losses(
            *map(jnp.float32, (logits,)), labels, jnp.float32(teacher), weight, temperature
        )
        expected = by_hand(logits, labels, teacher, weight, temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    same = distillation_losses(jnp.float32(logits), labels, jnp.float32(logits), 1.0, 2.0)
    np.testing.assert_allclose(same, 0, atol=1e-5)
    assert (by_hand(logits, labels, teacher, 1.0, 2.0) > 0.1).all()


def forward(params, z, x):
    for k, name in enumerate(("hidden_1", "hidden_2", "output")):
        x = (x * z[k]) @ np.asarray(params[name]["kernel"], np.float64)
        x = x + np.asarray(params[name]["bias"], np.float64)
        x = np.maximum(x, 0) if k < 2 else x
    return x


def test_the_teacher_is_the_mean_without_noise_from_the_epoch_named():
    settings = taught()
    trainer, run = start(settings, FEW)
    state, tally = loop.train_epoch(trainer, run, 16, 1, 3)
    plain, run = start(taught(distillation=config.Distillation()), FEW)
    same, plainly = loop.train_epoch(plain, run, 16, 1, 3)
    assert tally.loss == pytest.approx(plainly.loss, rel=1e-6), "the first epoch has no teacher"

    before = copy(state)
    rows = np.asarray(trainer.order(np.int32(2)))[:16]
    masks = {name: jnp.ones_like(gate) for name, gate in state.gates.items()}
    z = step.make_draw(run.network, settings)(state.gates, masks, run.given, state.step, 16)
    key = jax.random.fold_in(stream(settings.seed, "input noise"), state.step)
    clean = FEW.x_train[rows].reshape(16, 64)
    noisy = make_perturb(run.network, 0.3)(jnp.asarray(clean), key, run.given.units, 0)
    student = forward(
        before.variables["params"], [np.asarray(z[n]) for n in NAMES], np.asarray(noisy)
    )
    mean = before.averages
    fixed = [np.asarray(hard_concrete.mean(mean.gates[n])) for n in NAMES]
    teacher = forward(mean.variables["params"], fixed, clean)
    expected = by_hand(student, FEW.y_train[rows], teacher, 0.7, 3.0).mean()
    _, tally = loop.train_epoch(trainer, dataclasses.replace(run, state=state), 16, 2, 1)
    assert tally.data_loss == pytest.approx(expected, rel=1e-4)
    other = by_hand(student, FEW.y_train[rows], teacher, 0.0, 3.0).mean()
    assert abs(expected - other) > 1e-2


def test_the_variance_of_the_gradients_has_the_teachers_part():
    """From norms and from every example's own gradient: the same."""
    found = {}
    for kind in ("norms", "vmap"):
        for start_at in (0, 9):
            settings = taught(
                batch=config.Batch(size=16, variance=kind),
                distillation=config.Distillation(weight=0.7, temperature=2.0, start=start_at),
            )
            trainer, run = start(settings, FEW)
            found[kind, start_at] = copy(loop.train_epoch(trainer, run, 16, 1, 3))
    one, other = found["norms", 0], found["vmap", 0]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-4, atol=1e-5)
    untaught = found["norms", 9]
    assert abs(one[0].means.grad_variance / untaught[0].means.grad_variance - 1) > 0.05


def test_a_teacher_needs_a_mean():
    with pytest.raises(ConfigError, match=r"config.distillation.weight .* set optimizer.ema"):
        taught(optimizer=config.Optimizer())
