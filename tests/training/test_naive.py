"""The naive peer of the benchmarks does what the library does, given the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import naive_dynhp
from dynhp_jax import data
from dynhp_jax.common.errors import UserError
from dynhp_jax.gates import hard_concrete
from dynhp_jax.training import config
from dynhp_jax.training.compiled import example_order, programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import TrainState, stream

DIGITS = data.load("digits")
LAYERS = ("hidden_1", "hidden_2", "output")
EPOCHS = 2
SETTINGS = config.Config(
    model=config.Model(hidden=(24, 12)),
    penalty=config.Penalty(lam=2.0),
    pruning=config.Pruning(gamma=0.75),
    batch=config.Batch(alpha=0.0, grid=1.0),  # the rule's exact batch, as the naive peer has it
    compiling=config.Compiling(
        shrink=0.0, ahead=False
    ),  # arrays without dead units, as the naive peer's
    optimizer=config.Optimizer(learning_rate=0.03),
    memory=config.Memory(sp_batch=64),
)


@pytest.fixture(scope="module")
def library():
    """The first state of a run of the library, its records, and its states after each epoch."""
    trainer = Trainer(SETTINGS, DIGITS, programs.Programs())
    run, records, states = trainer.start(), [], []
    first = jax.device_get(run.state)
    for _ in range(EPOCHS):
        run, record = loop.advance(trainer, run)
        records.append(record)
        states.append(jax.device_get(run.state))
    return first, records, states


def layers_of(state: TrainState) -> list[dict]:
    """As the naive peer holds them: with each layer the gates of its inputs."""
    params, groups = state.variables["params"], ("input", *LAYERS)
    return [
        {**params[name], "log_alpha": state.gates[group]}
        for name, group in zip(LAYERS, groups, strict=False)
    ]


class Matched(naive_dynhp.Run):
    """With the library's first state, noise and order of the examples."""

    def __init__(self, kind: str, first: TrainState):
        sizes = [len(first.gates[name]) for name in ("input", *LAYERS[:-1])]
        ends = np.cumsum(sizes)
        self.units = np.split(np.arange(ends[-1]), ends[:-1])  # numbers of those that are left

        def same_noise(_, step, sizes):
            """The library's uniforms of a step, of the units that are left."""
            key = jax.random.fold_in(stream(SETTINGS.seed, "z"), step)
            u = hard_concrete.uniform(key, (ends[-1],))
            assert [len(units) for units in self.units] == sizes
            return [u[units] for units in self.units]

        super().__init__(SETTINGS, DIGITS, kind, draw=same_noise)
        self.state = self.state._replace(layers=jax.tree.map(jnp.array, layers_of(first)))

    def cut(self, keeps):
        super().cut(keeps)
        self.units = [units[kept] for units, kept in zip(self.units, keeps, strict=True)]

    def order(self, epoch: int):
        source = stream(SETTINGS.seed, "order")
        return example_order.make_order(self.examples)(source, np.int32(epoch))


@pytest.mark.parametrize("kind", ["vmap", "outer"])
def test_losses_prunings_and_batches_are_the_librarys(library, kind):
    first, records, states = library
    assert records[-1]["parameters"] < 0.9 * records[0]["materialised"]
    assert records[-1]["next_batch"] > 16
    naive = Matched(kind, first)
    for record, state in zip(records, states, strict=True):
        found = naive.advance()
        assert found["units"] == list(record["units"].values())
        for name in ("parameters", "model_kib", "batch_size", "next_batch"):
            assert found[name] == record[name]
        for name in ("cross_entropy", "penalty"):
            np.testing.assert_allclose(found[name], record[name], rtol=1e-4)
        np.testing.assert_allclose(found["test_error"], record["test_error"], atol=0.3)
        np.testing.assert_allclose(naive.state.means, np.array(state.means[:3]), rtol=1e-3)
        adam, expected = naive.state.opt_state[0], state.opt_state[0]
        # The library's arrays lose their dead units when the next epoch begins.
        kept = [np.flatnonzero(state.masks[name]) for name in ("input", *LAYERS[:-1])]
        for mine, params, gated in (
            (naive.state.layers, state.variables["params"], state.gates),
            (adam.mu, expected.mu["params"], expected.mu["gates"]),
            (adam.nu, expected.nu["params"], expected.nu["gates"]),
        ):
            for k, (layer, name) in enumerate(zip(mine, LAYERS, strict=True)):
                outs = kept[k + 1] if k + 1 < len(kept) else np.arange(10)
                kernel, bias = params[name]["kernel"], params[name]["bias"]
                np.testing.assert_allclose(layer["kernel"], kernel[kept[k]][:, outs], atol=1e-4)
                np.testing.assert_allclose(layer["bias"], bias[outs], atol=1e-4)
                group = gated[("input", *LAYERS)[k]]
                np.testing.assert_allclose(layer["log_alpha"], group[kept[k]], atol=1e-4)


def test_first_draws_are_distributed_as_the_librarys():
    naive = naive_dynhp.start(jax.random.key(3), (784, 300, 10), 1e-3)
    for k, (layer, rate) in enumerate(zip(naive.layers, (0.8, 0.5), strict=True)):
        expected = hard_concrete.init(jax.random.key(k), 4000, rate)
        assert abs(float(layer["log_alpha"].mean() - expected.mean())) < 5e-3
        inputs = layer["kernel"].shape[0]
        assert abs(float(jnp.std(layer["kernel"])) * (inputs / 2) ** 0.5 - 1) < 0.1
    u = naive_dynhp.noise(jax.random.key(0), 5, [784, 300])
    assert [part.size for part in u] == [784, 300]
    z = jnp.concatenate([naive_dynhp.gate(part, jnp.zeros(part.shape)) for part in u])
    expected = hard_concrete.prob_open(jnp.zeros(()))
    assert abs(float(jnp.mean(z > 0) - expected)) < 0.05


def test_every_epoch_takes_each_example_once_in_an_order_of_its_own():
    naive = naive_dynhp.Run(SETTINGS, DIGITS)
    one, other = (np.asarray(naive.order(epoch)) for epoch in (1, 2))
    assert set(one) == set(other) == set(range(len(DIGITS.y_train)))
    assert (one != other).mean() > 0.9


def test_settings_that_it_does_not_know_are_refused():
    settings = config.Config(gates=config.Gates(per_example=True))
    with pytest.raises(UserError, match="gates.per_example"):
        naive_dynhp.Run(settings, DIGITS)
