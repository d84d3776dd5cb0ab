"""Methods that keep compressed inputs, on the engine: ranks, subspaces, resuming."""

import dataclasses

import jax
import numpy as np
import pytest
from adapting import ADAPT, KERNELS, check_resumed, chosen, start
from command_lines import fails
from small_runs import copy

from dynhp_jax.finetune import calibrate, methods
from dynhp_jax.finetune.methods.compression import RANKS, SUBSPACES
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import extensions, loop
from experiments import train

PROGRAMS = Programs()
SGD = dataclasses.replace(ADAPT, optimizer=config.Optimizer(name="sgd", learning_rate=0.1))


def test_ranks_are_those_of_a_mini_batch_and_stay():
    made = methods.HOSVD(k=1, epsilon=0.7)
    trainer, run = start(made, SGD, PROGRAMS)
    network, seen = trainer.whole, trainer.judged_on.first(32)
    expected, _ = calibrate(
        network.evaluate, copy(run.state.variables), seen.inputs, paths=KERNELS[1:],
        epsilon=0.7, how=made.compress,
    )  # fmt: skip
    before = copy(run.state.variables["params"])
    ranks, compilations = [], []
    for _ in range(2):
        run, record = loop.advance(trainer, run)
        ranks.append(copy(run.state.own[RANKS]))
        compilations.append(record["compilations"])
    assert ranks[0].keys() == ranks[1].keys() == set(KERNELS[1:])
    for one, other in zip(*(each.values() for each in ranks), strict=True):
        np.testing.assert_array_equal(one, other)
    found = {axis: rank for axis, _, rank in ranks[0][KERNELS[1]].reshape(-1, 3).tolist()}
    assert found == expected[KERNELS[1]] and found
    assert compilations[0] == compilations[1]
    after = copy(run.state.variables["params"])
    jax.tree.map(np.testing.assert_array_equal, before["hidden_1"], after["hidden_1"])
    assert (before["hidden_2"]["kernel"] != after["hidden_2"]["kernel"]).mean() > 0.5


def test_fixed_subspaces_leave_the_examples_whole():
    """What an epoch begins with, without a training step."""
    trainer, run = start(methods.Fixed(k=2, epsilon=0.7), SGD, PROGRAMS)
    own = copy(extensions.begin_epoch(trainer, run).state.own)
    assert own[RANKS].keys() == own[SUBSPACES].keys() == set(KERNELS)
    for path, factors in own[SUBSPACES].items():
        ((axis, size, rank),) = own[RANKS][path].reshape(-1, 3).tolist()
        assert axis == 1 and factors["1"].shape == (size, rank) and rank < size


def test_rows_of_compressed_channels_go_on_bit_for_bit(tmp_path):
    """TraDy and ASI: subspaces are state, with a column for each rank; one program for all rows."""
    method = methods.TraDy(budget=800, compress="asi", epsilon=0.9)
    run, records = check_resumed(method, tmp_path, SGD)
    assert records[0]["compilations"] == records[1]["compilations"]
    own = copy(run.state.own)
    assert own[SUBSPACES].keys() == own[RANKS].keys() <= set(KERNELS)
    rows = chosen(run)
    for path, factors in own[SUBSPACES].items():
        sizes = dict(zip(("0", "1"), (32, len(rows[path])), strict=True))
        ranks = {str(a): (size, rank) for a, size, rank in own[RANKS][path].reshape(-1, 3).tolist()}
        for axis, factor in factors.items():
            assert factor.shape == ranks[axis] and factor.shape[0] == sizes[axis]
            np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-5)
    assert own[RANKS]
    assert all((each[2::3] % 4 == 0).all() for each in own[RANKS].values())


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "last_k(compress='pca')",
            "compress is 'pca'; allowed: '', 'svd', 'hosvd', 'asi'",
        ),
        ("asi(epsilon=0)", "epsilon is 0; allowed: a number above 0 and at most 1"),
        ("asi(calibrate=-1)", "calibrate is -1; allowed: whole epochs, 0 or more"),
        ("lora(compress='asi')", "lora needs whole inputs; leave compress out"),
    ],
)
def test_what_cannot_be_compressed_is_said_before_training(text, said, capfd):
    flags = ["--config=configs/digits.py", "--config.method=dense", "--workdir=runs/none"]
    assert said in fails(capfd, train.main, *flags, f"--config.extension={text}")


def test_subspaces_go_from_one_micro_batch_to_the_next():
    """They are of a micro-batch's size, and two steps of iteration on a mini-batch's two parts."""
    parts = dataclasses.replace(SGD, batch=config.Batch(variance="micro", micro_batches=2))
    trainer, run = start(methods.ASI(k=1, epsilon=0.7, per_layer=True), parts, PROGRAMS)
    begun = copy(extensions.begin_epoch(trainer, run).state.own)[SUBSPACES][KERNELS[1]]
    run, _ = loop.advance(trainer, run)
    after = copy(run.state.own)[SUBSPACES][KERNELS[1]]
    assert begun.keys() == after.keys() and begun["0"].shape[0] == 16
    for axis, factor in after.items():
        assert factor.shape == begun[axis].shape and not np.allclose(factor, begun[axis])
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-5)
