"""Models of one's own side by side: as their single runs, in one program only if they may be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.task_data import own_data
from dynhp_jax.tasks.task import task_of
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.model_sources import source_of
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.sweep.alike import alike
from dynhp_jax.training.sweep.team import Team

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
DATA = own_data((X[:480], Y[:480]), (X[480:720], Y[480:720]))
SETTINGS = config.Config(
    epochs=4,
    penalty=config.Penalty(lam=4.0),
    gates=config.Gates(learning_rate=0.03),
    batch=config.Batch(alpha=0.0, loss="cross_entropy", grid=2.0),
    optimizer=config.Optimizer(learning_rate=1e-2),
    compiling=config.Compiling(shrink=0.2, ahead=False),
    memory=config.Memory(budget="none"),
)


def plain(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def scaled(params, x):
    """With a constant for each unit, which is not among the parameters."""
    return jnp.tanh(x @ params["a"]) * np.linspace(1, 2, 24, dtype=np.float32) @ params["b"]


def network(apply, seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {"a": jax.random.normal(keys[0], (64, 24)) / 8,
              "b": jax.random.normal(keys[1], (24, 10)) / 5}  # fmt: skip
    source = source_of(apply, params, DATA.splits["train"].inputs, seed)
    return build.own_network(SETTINGS, source, task_of("cross_entropy"), DATA)


def test_one_program_serves_those_that_compute_the_same():
    keeps = [{"a": np.arange(3, 15)}, {"a": np.arange(12)}]
    for apply, may in ((plain, True), (scaled, False)):
        first, second = network(apply, 0), network(apply, 1)
        assert alike([first, second])
        assert alike([first.part(keeps[0]), first.part(keeps[1])]) == may
    assert not alike([network(plain, 0), network(scaled, 0)])
    with pytest.raises(ConfigError, match="computes the same whenever it is made"):
        Team([SETTINGS] * 2, DATA, Programs(), [network(plain, 0), network(scaled, 0)])


def test_members_end_as_their_single_runs():
    settings = [dataclasses.replace(SETTINGS, seed=seed) for seed in (0, 1)]
    team = Team(settings, DATA, Programs(), [network(plain, seed) for seed in (0, 1)])
    replicas, found = team.start(), []
    for _ in range(SETTINGS.epochs):
        replicas, records = team.advance(replicas)
        found.append(records[1])
    trainer = Trainer(settings[1], DATA, Programs(), whole=network(plain, 1))
    run = trainer.start()
    for theirs in found:
        run, mine = loop.advance(trainer, run)
        for name in ("units", "batch_size", "next_batch", "test_error"):
            assert mine[name] == theirs[name]
        assert mine["cross_entropy"] == pytest.approx(theirs["cross_entropy"], rel=1e-3)
    assert sum(found[-1]["units"].values()) < 88
    assert found[-1]["materialised"] < 64 * 24 + 240, "nothing was cut; test more"
