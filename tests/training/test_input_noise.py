"""Noise on the inputs of training."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from small_runs import FEW, make, start

from dynhp_jax.training import config
from dynhp_jax.training.run import loop
from dynhp_jax.training.step.input_noise import make_perturb
from dynhp_jax.training.step.objective import Examples


def test_noise_is_normal_and_another_in_every_step_and_place():
    trainer, run = start(make())
    perturb = make_perturb(run.network, 0.5)
    zeros, key = jnp.zeros((400, 64)), jax.random.key(3)
    noise = np.asarray(perturb(zeros, key, run.given.units, 0)) / 0.5
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert abs((noise**2).mean() - 1) < 4 * math.sqrt(2 / noise.size)
    assert abs((noise**4).mean() - 3) < 4 * math.sqrt(96 / noise.size)
    assert np.unique(noise).size > 0.99 * noise.size
    for shift in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(shift.mean()) < 4 / math.sqrt(shift.size)
    another = np.asarray(perturb(zeros, jax.random.key(4), run.given.units, 0)) / 0.5
    assert abs((noise * another).mean()) < 4 / math.sqrt(noise.size)


def test_parts_of_a_mini_batch_and_cut_inputs_get_the_noise_of_the_whole():
    trainer, run = start(make())
    key, rows = jax.random.key(0), jnp.arange(12)
    images = jnp.asarray(run.splits["train"].inputs)

    def examples(network, units, images):
        perturb = make_perturb(network, 0.5)
        return Examples(
            images, run.splits["train"].targets, rows,
            perturb=lambda found, first: perturb(found, key, units, first),
        )  # fmt: skip

    whole = examples(run.network, run.given.units, images)
    noisy = np.asarray(whole.gathered()[0])
    assert np.abs(noisy - images[:12]).mean() > 0.1
    parts = [np.asarray(whole.part(k, 4).gathered()[0]) for k in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), noisy)
    keeps = {name: np.arange(group.size) for name, group in run.network.groups.items()}
    keeps["input"] = np.array([3, 4, 17, 63])
    network = run.network.part(keeps)
    units = trainer.given(network, keeps, network_state(trainer, network)).units
    cut = examples(network, units, images[:, keeps["input"]])
    np.testing.assert_array_equal(cut.gathered()[0], noisy[:, keeps["input"]])


def network_state(trainer, network):
    shapes = trainer.steps.state_shapes(network)
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


def test_an_input_that_is_not_gated_gets_noise_too():
    plain = make(method="dense", batch=config.Batch(size=16))
    trainer, run = start(dataclasses.replace(plain, data=config.Data(noise=0.5)), FEW)
    perturb = make_perturb(run.network, 0.5)
    noise = np.asarray(perturb(jnp.zeros((50, 64)), jax.random.key(1), {}, 0))
    assert abs(noise.std() - 0.5) < 0.02 and np.unique(noise).size > 3100
    before = loop.train_epoch(trainer, run, 16, 1, 3)[1]
    trainer, run = start(plain, FEW)
    assert loop.train_epoch(trainer, run, 16, 1, 3)[1].loss != before.loss
