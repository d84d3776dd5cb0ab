"""Splits that stay on the host: the same run as with the data on the device, bit for bit."""

import dataclasses
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhp_jax import data
from dynhp_jax.training import config
from dynhp_jax.training.compiled import programs, step_bytes
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import streaming
from dynhp_jax.training.step.state import TrainState, empty_tally

DIGITS = data.load("digits", validation=0.1)
LARGER = dataclasses.replace(  # 100 of them, every pixel four times
    DIGITS,
    x_train=DIGITS.x_train[:100].repeat(2, 1).repeat(2, 2),
    y_train=DIGITS.y_train[:100],
    x_test=DIGITS.x_test[:50].repeat(2, 1).repeat(2, 2),
    y_test=DIGITS.y_test[:50],
    x_validation=DIGITS.x_validation[:0],
    y_validation=DIGITS.y_validation[:0],
)
SMALL = "20KiB"  # two chunks of 40 examples


def make(resident: str, **changes) -> Config:
    base = Config(
        name="test",
        epochs=6,
        model=config.Model(hidden=(12, 7)),
        penalty=config.Penalty(lam=4.0),
        batch=config.Batch(alpha=0.0, loss="cross_entropy"),
        data=config.Data(resident=resident),
        optimizer=config.Optimizer(learning_rate=1e-2),
        memory=config.Memory(budget="none"),
        compiling=config.Compiling(shrink=0.3, ahead=False),
    )
    return dataclasses.replace(base, **changes)


def start(settings: Config, dataset=DIGITS):
    trainer = Trainer(settings, dataset, programs.Programs())
    return trainer, trainer.start()


def raw(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_streamed_run_is_bit_for_bit_the_resident_one(optimised):
    found = {}
    for resident in ("2GiB", SMALL):
        trainer, run = start(make(resident, gates=config.Gates(per_example=True)))
        assert isinstance(run.splits["train"].inputs, np.ndarray) == (resident == SMALL)
        records = []
        for _ in range(6):
            run, record = loop.advance(trainer, run)
            records.append(record)
        clocks = {"seconds", "compile_seconds"}
        records = [{k: v for k, v in each.items() if k not in clocks} for each in records]
        found[resident] = raw(run.state), records
    assert found["2GiB"] == found[SMALL]
    assert records[-1]["materialised"] < records[0]["materialised"], "nothing was cut; test more"
    assert records[-1]["batch_size"] > 16 and records[0]["steps"] > 2 * 40 // 16
    names = [each.name for each in trainer.programs.log]
    assert names.count("part") > 2 and "epoch" not in names


def test_a_loop_on_the_host_is_streamed_to_as_well(optimised):
    """A convolution on a CPU: the host calls every step."""
    found = []
    for resident in ("2GiB", "10KiB"):
        lenet = make(resident, model=config.Model(name="lenet", width=0.25))
        trainer, run = start(lenet, LARGER)
        assert trainer.steps.on_host and trainer.steps.fed(run.network, 16) in (100, 16)
        state, tally = loop.train_epoch(trainer, run, 16, 1, 6)
        results = loop.evaluate(trainer, run.network, state, run.splits["test"], "test")
        found.append((raw(state), raw(tally), raw(results)))
    assert found[0] == found[1]


def test_evaluation_counts_each_example_of_a_streamed_split_once():
    results = []
    for resident in ("2GiB", SMALL):
        trainer, run = start(make(resident))
        split = run.splits["test"]
        results += [
            loop.evaluate(trainer, run.network, run.state, split, "test", chunk)
            for chunk in (50, 360)
        ]
        assert isinstance(split.inputs, np.ndarray) == (resident == SMALL)
    for found in results:
        np.testing.assert_array_equal(found["confusion"].sum(1), np.bincount(DIGITS.y_test))
        np.testing.assert_array_equal(found["confusion"], results[0]["confusion"])
        assert found["cross_entropy"] == pytest.approx(results[0]["cross_entropy"], rel=1e-6)
    assert results[0]["cross_entropy"] == results[2]["cross_entropy"]


def test_streaming_takes_no_other_bytes_beside_the_data():
    sizes = []
    for resident in ("2GiB", SMALL):
        trainer, run = start(make(resident))
        budget, steps = trainer.budget, trainer.steps
        sizes.append((steps.training_bytes(run.network, 16), budget.step_bytes(run.network, 16)))
        arguments = steps.training_program(run.network, 16).args_info[0]
        images = arguments[1 if resident == "2GiB" else 2]
        assert images.shape == (len(DIGITS.y_train) if resident == "2GiB" else 32, 64)
    assert sizes[0] == sizes[1]
    assert set(sizes[0][0]) == set(step_bytes.PARTS)


def test_no_more_than_two_chunks_are_sent_before_they_are_used():
    """The device is slow: a part is asked for when the one before the last has been used."""
    finished, sent = [], []

    def slow(loss):
        time.sleep(0.05)
        finished.append(len(finished))
        return np.float32(0)

    compute = jax.jit(lambda loss: jax.pure_callback(slow, loss, loss))

    def program(state, tally, *data):
        return state, tally._replace(loss=compute(tally.loss))

    def parts():
        for number in range(6):
            sent.append(number - len(finished))
            yield streaming.Part(None, None, None, 1)

    state = TrainState(None, None, None, {}, None, None)
    tally = empty_tally(state, {})
    jax.block_until_ready(streaming.train(program, state, tally, None, parts(), False)[1])
    assert len(finished) == len(sent) == 6
    assert max(sent) <= 1, "in use while a part is sent: the one before it, at most"


@given(
    examples=st.integers(1, 5000),
    batch=st.integers(1, 5000),
    inputs=st.integers(1, 300),
    limit=st.integers(1, 10**7),
)
def test_chunks_are_whole_mini_batches_within_the_limit(examples, batch, inputs, limit):
    batch = min(batch, examples)
    settings = Config(data=config.Data(resident=f"{limit}"))
    example = jax.ShapeDtypeStruct((inputs,), "float32")
    size = streaming.at_once(settings, examples, example, batch)
    if 4 * inputs * examples <= limit:
        assert size == examples
        return
    steps = examples // batch
    assert size % batch == 0 and batch <= size <= examples
    assert size == batch or streaming.AHEAD * size * 4 * inputs <= limit
    chunks = -(-steps * batch // size)
    assert chunks * size - steps * batch < chunks * batch, "no chunk is more than a step short"


@pytest.mark.parametrize("examples", [100, 96, 33])
def test_an_epoch_takes_every_example_in_the_order_it_was_given(examples):
    images, labels = np.arange(2.0 * examples).reshape(examples, 2), np.arange(examples)
    order = np.random.default_rng(0).permutation(examples)
    seen = []
    split = Split(images, labels)
    for part in streaming.parts(split, order, 48, 16, examples // 16, jax.device_put):
        assert part.inputs.shape == (48, 2) and part.targets.shape == part.rows.shape == (48,)
        rows = np.asarray(part.rows)[: part.steps * 16]
        seen += np.asarray(part.targets)[rows].tolist()
        np.testing.assert_array_equal(np.asarray(part.inputs)[:, 0], 2 * np.asarray(part.targets))
    assert seen == order[: examples // 16 * 16].tolist()
