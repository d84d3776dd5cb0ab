"""Data that no array holds: sources of random access, and iterables of batches."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.streamed import Batches, Streamed, streamed
from dynhp_jax.data.task_data import own_data
from dynhp_jax.tasks.task import Task
from dynhp_jax.training import config, first_look

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
CLOCKS = dict.fromkeys(("seconds", "compile_seconds", "compilations", "device_peak_kib"))
PRUNING = config.Config(
    method="dynhp",
    epochs=5,
    penalty=config.Penalty(lam=4.0),
    gates=config.Gates(learning_rate=0.03),
    optimizer=config.Optimizer(learning_rate=1e-2),
    batch=config.Batch(every="step", alpha=0.0, loss="cross_entropy", grid=2.0),
    compiling=config.Compiling(shrink=0.2, ahead=False),
    memory=config.Memory(budget="none"),
    data=config.Data(resident="20KiB"),
)


class Table:
    """A source of random access that counts how often it was read."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read += 1
        return X[self.rows][index], int(Y[self.rows][index])


class Sheets:
    """An iterable of batches of some sizes, which begins anew for every epoch."""

    def __init__(self, x, y, sizes):
        self.x, self.y, self.sizes, self.epochs = x, y, sizes, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        ends = np.cumsum(self.sizes)
        for start, end in zip(ends - self.sizes, ends, strict=True):
            yield {"x": self.x[start:end]}, self.y[start:end]


class Killed(Exception):
    """Ends a run in the middle."""


def layered(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def weights():
    keys = jax.random.split(jax.random.key(0), 2)
    return {"a": jax.random.normal(keys[0], (64, 24)) / 8,
            "b": jax.random.normal(keys[1], (24, 10)) / 5}  # fmt: skip


def same(one, other):
    assert [{**r, **CLOCKS} for r in one.records] == [{**r, **CLOCKS} for r in other.records]
    for a, b in zip(*(jax.tree.leaves(r.variables) for r in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_source_of_random_access_trains_as_arrays_do_and_goes_on(tmp_path):
    """Also with a mini-batch that grows and inputs that are pruned, bit for bit."""
    rows = {"train": np.arange(640), "test": np.arange(640, 900), "validation": np.arange(900, 990)}
    arrays = {name: (X[each], Y[each]) for name, each in rows.items()}
    whole = dp.fit(layered, weights(), config=PRUNING, **arrays)
    sources = {name: Table(each) for name, each in rows.items()}

    def die(record):
        if record["epoch"] == 3:
            raise Killed

    asked = {"config": PRUNING, "workdir": tmp_path / "run", **sources}
    with pytest.raises(Killed):
        dp.fit(layered, weights(), callbacks=[die], **asked)
    found = dp.fit(layered, weights(), config=PRUNING, workdir=tmp_path / "run", **sources)
    same(whole, found)
    sizes = [record["batch_size"] for record in found.records]
    assert sizes[-1] > sizes[0] and found.records[-1]["materialised"] < 64 * 24 + 240
    assert found.keeps["input"].size < 64 and sources["train"].read > 5 * 600
    with pytest.raises(UserError, match="run of another model, data, loss or metrics"):
        other = sources | {"train": Table(np.arange(1, 641))}
        dp.fit(layered, weights(), config=PRUNING, workdir=tmp_path / "run", **other)


def test_batches_are_read_in_turn_and_told_the_epoch(tmp_path):
    def apply(params, inputs):
        return layered(params, inputs["x"])

    asked = dataclasses.replace(
        PRUNING, method="dense", epochs=2, data=config.Data(resident="1KiB")
    )
    given = {"test": Sheets(X[640:900], Y[640:900], [100, 160])}
    whole = dp.fit(apply, weights(), train=Sheets(X[:640], Y[:640], [640]), config=asked, **given)
    train = Sheets(X[:640], Y[:640], [7, 300, 1, 332])
    for epochs in (1, 2):
        short = dataclasses.replace(asked, epochs=epochs)
        found = dp.fit(
            apply, weights(), train=train, config=short, workdir=tmp_path / "run", **given
        )
    same(whole, found)
    assert train.epochs == [1, 2]


@pytest.mark.parametrize("shuffled", [False, True], ids=["MapDataset", "DataLoader"])
def test_grain(shuffled):
    """Its datasets of random access are as arrays are; its loaders are read in their own order."""
    grain = pytest.importorskip("grain")
    pairs = [(x, int(y)) for x, y in zip(X[:640], Y[:640], strict=True)]
    train = grain.MapDataset.source(pairs)
    if shuffled:
        order = grain.samplers.IndexSampler(640, shuffle=True, seed=0, num_epochs=1)
        batched = [grain.transforms.Batch(100)]
        train = grain.DataLoader(data_source=pairs, sampler=order, operations=batched)
    asked = dataclasses.replace(
        PRUNING, method="dense", epochs=2, data=config.Data(resident="20KiB")
    )
    test = (X[640:900], Y[640:900])
    found = dp.fit(layered, weights(), train=train, test=test, config=asked)
    whole = dp.fit(layered, weights(), train=(X[:640], Y[:640]), test=test, config=asked)
    if shuffled:
        assert found.records[-1]["train_loss"] < found.records[0]["train_loss"]
        assert found.records[0]["train_loss"] != whole.records[0]["train_loss"]
    else:
        same(whole, found)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 40))
def test_chunks_of_batches_are_those_of_arrays(sizes, size, wanted):
    count = sum(sizes)
    found = streamed("train", Sheets(X[:count], Y[:count], sizes))
    assert isinstance(found, Batches) and len(found) == count
    order = np.arange(min(wanted, count))
    chunks = list(found.chunks(order, size))
    assert all(len(chunk) == size for chunk in chunks[:-1])
    np.testing.assert_array_equal(np.concatenate([c.inputs["x"] for c in chunks]), X[order])
    np.testing.assert_array_equal(np.concatenate([c.targets for c in chunks]), Y[order])


def test_a_source_that_has_room_on_the_device_is_read_once():
    source = Table(np.arange(50))
    dataset = own_data(source, dp.Mapped(range(9), lambda i: (X[i], Y[i])))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert isinstance(train, Pairs) and source.read == 51, "the first one says what they are"
    np.testing.assert_array_equal(train.inputs, X[:50])
    assert train.targets.dtype == np.int32 and len(test) == 9


def test_the_host_holds_no_more_than_chunks():
    """The resident set stays where it is while 160 MB are read."""
    seen = []

    def example(row):
        if row % 200 == 0:
            status = Path("/proc/self/status").read_text()
            seen.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024)
        return np.full(20_000, row % 7, np.float32), row % 7

    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's account of a process")
    source = dp.Mapped(range(2_000), example)
    asked = config.Config(
        method="dense", epochs=1, batch=config.Batch(rule="fixed", size=50),
        memory=config.Memory(budget="none"), data=config.Data(resident="8MiB"),
    )  # fmt: skip
    dp.fit(
        lambda params, x: x @ params, np.zeros((20_000, 7), np.float32),
        train=source, test=dp.Mapped(range(20), example), config=asked,
    )  # fmt: skip
    assert len(seen) > 10 and max(seen[5:]) - min(seen[5:]) < 80, seen


def broken(row, value):
    """Examples of which that one is something else, or is what a call of it gives or raises."""

    def example(index):
        if index != row:
            return X[index], Y[index]
        return value(index) if callable(value) else value

    return dp.Mapped(range(100), example)


@pytest.mark.parametrize(
    "source, words",
    [
        (broken(17, (X[0, :3], Y[0])), r"example 17 of train is float32\[3\], int64\[\], the "),
        (broken(17, (X[0], 0.5)), r"example 17 of train is .*, float64\[\], .* int32"),
        (broken(17, {"image": X[0]}), r"example 17 of train is a dict; .* dp.Mapped\(source, f"),
        (broken(17, lambda row: X[5000]), "example 17 of train fails: IndexError: index 5000"),
        (broken(0, lambda row: 1 / 0), "example 0 of train fails: ZeroDivisionError"),
        (dp.Mapped((), None), "train has 0 examples; allowed: 1 to"),
        (Sheets(X, Y, []), "train gives no batch"),
        (iter([(X, Y)]), "train is a list_iterator, which can be read but once; allowed: an iter"),
        (Sheets(X, Y[:5], [4, 4]), r"batch 1 of train has arrays of shapes \(4, 64\), \(1,\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_source_is_said_with_the_number(source, words):
    with pytest.raises(UserError, match=words) as raised:
        own_data(source, (X, Y))
    assert "\n" not in str(raised.value)


def test_a_source_that_changes_or_ends_early_is_refused():
    sheets = Sheets(X, Y, [30, 30])
    found = streamed("train", sheets)
    sheets.sizes = [30, 11]
    with pytest.raises(UserError, match="train ended after 41 of 60 examples; allowed: as many"):
        list(found.chunks(None, 25))
    sheets.x = X[:, :3]
    with pytest.raises(UserError, match=r"batch 0 of train is of examples float32\[3\], int32\[\]"):
        list(found.chunks(None, 25))


def test_a_target_that_is_no_class_is_named_when_it_is_read():
    outputs = jax.ShapeDtypeStruct((2, 10), jnp.float32)
    targets = np.where(np.arange(8) == 5, 12, Y[:8])
    with pytest.raises(UserError, match="example 17 of train has the target 12; allowed: 0 to 9"):
        first_look.check_labels(Task(), outputs, "train", targets, np.arange(12, 20))


def test_a_data_source_of_tfds_is_one(tfds_dir, mnist):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(tfds_dir / "mnist" / "3.0.1").as_data_source("test")
    found = streamed("test", source)
    assert isinstance(found, Streamed) and len(found) == 10_000
    few = found.first(20)
    pixels = {image.tobytes(): label for image, label in zip(
        np.uint8(np.round(mnist.x_test * 255)), mnist.y_test, strict=True)}  # fmt: skip
    assert [pixels[image.tobytes()] for image in few.inputs] == few.targets.tolist()
