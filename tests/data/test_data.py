"""dynhp_jax.data: real data, equal to what was published; the validation set; arguments."""

import dataclasses
import hashlib
import io
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest
from data_files import CIFAR_SHA1, MD5, idx_files, pixels, same
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.common.errors import ArgumentError, UserError
from dynhp_jax.data import NAMES, load

# What is loaded.


def test_mnist_is_what_was_published(mnist, original_files):
    assert mnist.x_train.shape == (60_000, 28, 28, 1) and mnist.x_test.shape == (10_000, 28, 28, 1)
    assert mnist.x_train.dtype == np.float32 and mnist.y_train.dtype == np.int32
    assert mnist.num_classes == 10 and mnist.example_shape == (28, 28, 1)
    raw = np.frombuffer((original_files / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    expected = (raw.reshape(-1, 28, 28, 1).astype(np.float64) / 255).astype(np.float32)
    np.testing.assert_array_equal(mnist.x_test, expected)


def test_fashion_mnist_is_what_was_published(tfds_dir):
    files = idx_files(load("fashion_mnist", directory=tfds_dir))
    assert {n: hashlib.md5(raw).hexdigest() for n, raw in files.items()} == MD5["fashion_mnist"]


@pytest.mark.long
def test_cifar10_is_what_was_published_and_its_archive_is_read(tfds_dir, tmp_path, nowhere):
    prepared = load("cifar10", directory=tfds_dir)
    records = {}
    for split, names in (("train", list(CIFAR_SHA1)[:5]), ("test", ["test_batch.bin"])):
        x, y = getattr(prepared, f"x_{split}"), getattr(prepared, f"y_{split}")
        planes = pixels(x).transpose(0, 3, 1, 2).reshape(len(x), -1)
        rows = np.concatenate([y.astype(np.uint8)[:, None], planes], axis=1)
        for name, part in zip(names, np.split(rows, len(names)), strict=True):
            records[name] = part.tobytes()
    assert {n: hashlib.sha1(raw).hexdigest() for n, raw in records.items()} == CIFAR_SHA1

    archive = tmp_path / "files" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for name in reversed(records):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(records[name])
            tar.addfile(member, io.BytesIO(records[name]))
    same(load("cifar10", directory=archive.parent, cache=tmp_path / "new"), prepared)

    unpacked = tmp_path / "cifar10" / "cifar-10-batches-bin"
    unpacked.mkdir(parents=True)
    for name, raw in records.items():
        (unpacked / name).write_bytes(raw)
    same(load("cifar10", directory=tmp_path, cache=tmp_path / "newer"), prepared)


def test_digits_are_scaled_and_split_once_for_all():
    digits = load("digits")
    assert digits.x_train.shape == (1437, 8, 8, 1) and digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1
    assert hashlib.sha256(digits.y_test).hexdigest() == (
        "120589cb45e357a82a50d1b490a24acbb87cbf146da2f062fee7039cefd819ab"
    )
    from sklearn.datasets import load_digits

    both = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 64) * 16
    everything = load_digits().data
    np.testing.assert_array_equal(
        both[np.lexsort(both.T)], everything[np.lexsort(everything.T)].astype(np.float32)
    )
    assert np.bincount(digits.y_test, minlength=10).min() >= 25


def test_flat_examples_are_the_same_numbers_in_rows(mnist, mnist_cache):
    flat = load("mnist", cache=mnist_cache, flat=True)
    assert flat.example_shape == (784,)
    np.testing.assert_array_equal(flat.x_test, mnist.x_test.reshape(-1, 784))


def test_arrays_cannot_be_changed():
    digits = load("digits")
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.name = "mnist"


# A data set of one's own.


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("y_train", lambda y: y - 1, "y_train .* from -1 to 8; allowed: from 0 to 9"),
        ("y_test", lambda y: y + 1, "y_test .* from 1 to 10; allowed: from 0 to 9"),
        ("y_train", lambda y: y.astype(np.float32), "y_train .* is float32; allowed: integers"),
        ("y_validation", lambda y: y[:-1], r"\(144, 8, 8, 1\) and \(143,\); .* one label"),
        ("y_train", lambda y: np.eye(10)[y], r"\(1293, 8, 8, 1\) and \(1293, 10\)"),
        ("x_train", lambda x: (16 * x).astype(np.uint8), r"x_train .* is uint8; .*x_train\) / 255"),
        ("x_test", lambda x: x[:, :4], r"x_test .* \(4, 8, 1\); allowed: \(8, 8, 1\)"),
        ("test", lambda a: a[:0], "x_test and y_test .* are empty; .* at least one"),
    ],
)
def test_what_cannot_be_trained_or_tested_on_is_refused_in_one_line(name, change, said):
    digits = load("digits", validation=0.1)
    names = (name,) if name.startswith(("x_", "y_")) else (f"x_{name}", f"y_{name}")
    with pytest.raises(UserError, match=f"^[^\n]*{said}[^\n]*$"):
        dataclasses.replace(digits, **{each: change(getattr(digits, each)) for each in names})


def test_numbers_of_other_types_become_those_that_are_trained_on():
    digits = load("digits", validation=0.1)
    taken = dataclasses.replace(
        digits,
        x_train=jnp.asarray(digits.x_train),
        y_train=digits.y_train.astype(np.uint8),
        x_validation=np.empty((0, 64)),
        y_validation=np.empty(0),
        x_test=digits.x_test.astype(float),
        y_test=digits.y_test.tolist(),
    )
    none = digits.x_validation[:0].reshape(0, 64), digits.y_validation[:0]
    same(taken, dataclasses.replace(digits, x_validation=none[0], y_validation=none[1]))
    for split in ("train", "validation", "test"):
        images, labels = getattr(taken, f"x_{split}"), getattr(taken, f"y_{split}")
        assert isinstance(images, np.ndarray)
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)


# The validation set.


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0005, 0.99), seed=st.integers(0, 100))
def test_validation_set_is_a_fixed_part_of_the_training_set(share, seed):
    everything = load("digits", flat=True)
    a = load("digits", flat=True, validation=share, validation_seed=seed)
    same(a, load("digits", flat=True, validation=share, validation_seed=seed))
    assert len(a.x_validation) == min(max(1, round(1437 * share)), 1436)
    together = np.concatenate([a.x_train, a.x_validation])
    np.testing.assert_array_equal(
        together[np.lexsort(together.T)], everything.x_train[np.lexsort(everything.x_train.T)]
    )
    np.testing.assert_array_equal(a.x_test, everything.x_test)


def test_another_seed_holds_out_another_part_and_none_by_default():
    parts = [load("digits", validation=0.2, validation_seed=seed).x_validation for seed in (0, 1)]
    assert not np.array_equal(*parts)
    none = load("digits")
    assert none.x_validation.shape == (0, 8, 8, 1) and none.y_validation.shape == (0,)


# Arguments.


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fashion-mnist", "'fashion_mnist'"),
        ("fmnist", "'fashion_mnist'"),
        ("MNIST", "'mnist'"),
        ("cifar", "'cifar10'"),
    ],
)
def test_unknown_name_gets_the_list_and_the_nearest(name, hint):
    with pytest.raises(ArgumentError, match="^name is") as caught:
        load(name)
    assert ", ".join(NAMES) in str(caught.value) and "did you mean" in str(caught.value)
    assert hint in str(caught.value)


def test_a_name_like_no_other_gets_the_list_alone():
    with pytest.raises(ArgumentError) as caught:
        load("imagenet")
    assert ", ".join(NAMES) in str(caught.value) and "did you mean" not in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_validation_outside_its_range(share):
    with pytest.raises(ArgumentError, match=r"^validation is .* from 0 to below 1"):
        load("digits", validation=share)


def test_directory_that_does_not_exist(tmp_path, mnist_cache):
    """Even where the cache would do: the name is wrong, and is better known now."""
    with pytest.raises(ArgumentError, match=r"^directory is .*nothing.*existing directory"):
        load("mnist", directory=tmp_path / "nothing", cache=mnist_cache)
