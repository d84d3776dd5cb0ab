"""Shapes that change by plans: when it pays, compiled meanwhile, whatever the clock says."""

import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax import data
from dynhp_jax.training import config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, machine_speeds, shape_plans
from dynhp_jax.training.run.trainer import Trainer

DIGITS = data.load("digits")
NUMBER = jax.ShapeDtypeStruct((), "float32")


class Late(Programs):
    """Its background thread is slow."""

    def ahead(self, work):
        def slowly():
            time.sleep(0.5)
            return work()

        return super().ahead(slowly)


class Early(Programs):
    """Whatever it is asked for ahead is there before training goes on."""

    def ahead(self, work):
        future = super().ahead(work)
        future.result()
        return future


def make(**changes) -> Config:
    base = Config(
        epochs=9,
        model=config.Model(hidden=(12, 7)),
        penalty=config.Penalty(lam=2.0),
        optimizer=config.Optimizer(learning_rate=5e-3),
        memory=config.Memory(sp_batch=64),
        batch=config.Batch(alpha=0.0, grid=1.5),
        compiling=config.Compiling(shrink=0.1),
    )
    return dataclasses.replace(base, **changes)


def test_how_long_compiling_takes_changes_no_bit(optimised):
    states, histories = [], []
    for programs in (Early(), Late()):
        trainer = Trainer(make(), DIGITS, programs)
        run, history = trainer.start(), []
        for _ in range(9):
            run, record = loop.advance(trainer, run)
            history.append((record["batch_size"], record["materialised"], record["train_loss"]))
        states.append(jax.tree.map(np.asarray, run.state))
        histories.append(history)
    assert histories[0] == histories[1]
    batches, sizes, _ = zip(*histories[0], strict=True)
    assert len(set(batches)) > 1 and len(set(sizes)) > 1, "no plan was carried out; test more"
    for state in states[1:]:
        for a, b in zip(jax.tree.leaves(states[0]), jax.tree.leaves(state), strict=True):
            assert a.tobytes() == b.tobytes()


def test_masks_prune_at_once_while_a_plan_waits():
    trainer = Trainer(make(), DIGITS, Programs())
    run, waiting = trainer.start(), 0
    for _ in range(9):
        run, record = loop.advance(trainer, run)
        if run.plan is not None and run.plan.due > run.epoch + 1:
            assert record["parameters"] < record["materialised"]
            assert run.network.model == trainer.whole.model or run.epoch > run.plan.due - 3
            waiting += 1
    assert waiting


def masks_of(trainer, share):
    return {
        name: (np.arange(group.size) < share * group.size).astype(np.float32)
        for name, group in trainer.whole.groups.items()
    }


@pytest.mark.parametrize(
    "share, epoch, pays",
    [
        (0.9, 0, True),  # a fifth is gone and many epochs are left
        (0.9, 9999, False),  # one is left
        (0.98, 0, False),  # four per cent are gone
        (0.6, 9999, True),  # more than half: the memory is given back
    ],
)
def test_arrays_are_cut_when_that_pays(share, epoch, pays):
    settings = Config(epochs=10_000, model=config.Model(hidden=(300, 100)))
    trainer = Trainer(settings, DIGITS, Programs())
    masks = masks_of(trainer, share)
    assert pays == shape_plans.worth_cutting(
        trainer, trainer.whole, trainer.whole_parameters, epoch, 16, masks
    )


def test_a_starved_mini_batch_is_a_reason_to_cut():
    settings = Config(epochs=10_000, model=config.Model(hidden=(300, 100)))
    trainer = Trainer(settings, DIGITS, Programs())
    arguments = (trainer, trainer.whole, trainer.whole_parameters, 9999, 16)
    assert shape_plans.worth_cutting(*arguments, masks_of(trainer, 0.9), starved=True)
    assert not shape_plans.worth_cutting(*arguments, masks_of(trainer, 0.98), starved=True)
    assert not shape_plans.worth_cutting(*arguments, masks_of(trainer, 1.0), starved=True)


def test_a_network_s_flops_are_those_of_its_products():
    trainer = Trainer(make(), DIGITS, Programs())
    assert trainer.whole.flops == 2 * (64 * 12 + 12 * 7 + 7 * 10)


# -- programs --------------------------------------------------------------------------------------


def test_what_is_compiled_ahead_is_there_and_nobody_waited():
    programs, made = Programs(), []

    def double():
        made.append(threading.current_thread())
        return jax.jit(lambda x: 2 * x)

    programs.ahead(lambda: programs.get("double", 8, double, NUMBER)).result()
    assert programs.get("double", 8, double, NUMBER)(jnp.float32(3)) == 6
    assert len(made) == programs.compilations == 1
    assert made[0] is not threading.current_thread()
    assert programs.waited == 0 < programs.seconds


def test_two_threads_that_want_one_program_compile_it_once():
    programs, made = Programs(), []

    def slow():
        made.append(1)
        time.sleep(0.3)
        return jax.jit(lambda x: x + 1)

    future = programs.ahead(lambda: programs.get("one", (), slow, NUMBER))
    while not made:
        time.sleep(0.01)
    mine = programs.get("one", (), slow, NUMBER)
    assert future.result() is mine
    assert made == [1] and programs.compilations == 1
    assert programs.waited > 0


def test_a_program_that_cannot_be_compiled_fails_where_it_is_needed_and_may_be_tried_again():
    programs = Programs()

    def broken():
        return jax.jit(lambda x: x @ x)

    future = programs.ahead(lambda: programs.get("it", (), broken, NUMBER))
    with pytest.raises(ValueError, match="matmul"):
        programs.join(future)
    with pytest.raises(ValueError, match="matmul"):
        programs.get("it", (), broken, NUMBER)
    assert programs.get("it", (), lambda: jax.jit(lambda x: x), NUMBER)(jnp.float32(1)) == 1


def test_the_thread_computes_in_the_precision_of_its_caller():
    programs = Programs()
    double = jax.ShapeDtypeStruct((), "float64")
    with jax.enable_x64(True):
        future = programs.ahead(
            lambda: programs.get("wide", (), lambda: jax.jit(lambda x: x / 3), double)
        )
        assert programs.join(future)(np.float64(1)).dtype == np.float64


def test_programs_of_a_spec_are_dropped_and_the_others_stay():
    programs = Programs()
    for key in ("old", ("old", 16), ("old", 32, True), ("new", 16), "new", 1437):
        programs.get("program", key, lambda: jax.jit(lambda x: x), NUMBER)
    programs.drop("old")
    assert len(programs) == 3 and programs.compilations == 6
    programs.get("program", ("new", 16), lambda: jax.jit(lambda x: x), NUMBER)
    assert programs.compilations == 6


def test_an_epoch_of_a_larger_network_or_a_smaller_batch_takes_longer():
    trainer = Trainer(make(), DIGITS, Programs())
    machine, network = machine_speeds.COSTS["cpu"], trainer.whole
    small = machine.epoch(network, 951, 1437, 64)
    assert machine.epoch(network, 951, 1437, 16) > small
    assert machine.epoch(network, 9510, 1437, 64) > small
    assert machine.epoch(network, 951, 14370, 64) > small
