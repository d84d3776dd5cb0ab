"""The prepared directory and the cache of what was decoded from it; damage of either."""

import os
import shutil
import warnings

import numpy as np
import pytest
from data_files import FIRST_LABELS, LOAD, pixels, python, same

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.loading import load

# The prepared directory.


def test_damaged_prepared_directory_is_refused(tfds_dir, tmp_path, nowhere):
    version = tmp_path / "tfds" / "mnist" / "3.0.1"
    shutil.copytree(tfds_dir / "mnist" / "3.0.1", version)
    shard = version / "mnist-train.array_record-00000-of-00001"
    os.truncate(shard, 5_000_000)
    with pytest.raises(UserError, match=r"mnist/3\.0\.1 is damaged .* prepare it anew"):
        load("mnist", directory=tmp_path / "tfds")


@pytest.fixture
def disguised(tfds_dir, tmp_path):
    """Fashion-MNIST in MNIST's clothes: the content alone is wrong."""
    version = tmp_path / "tfds" / "mnist" / "3.0.1"
    shutil.copytree(tfds_dir / "fashion_mnist" / "3.0.1", version)
    for file in list(version.glob("fashion_mnist-*")):
        file.rename(version / file.name.replace("fashion_mnist", "mnist"))
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("fashion_mnist", "mnist"))
    return tmp_path / "tfds"


def test_prepared_directory_of_other_content_is_refused(disguised, nowhere):
    with pytest.raises(UserError, match="those of fashion_mnist, not of mnist"):
        load("mnist", directory=disguised)


def test_prepared_directory_with_too_few_examples_is_refused(disguised, nowhere):
    info = disguised / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace('"10000"', '"9999"'))
    with pytest.raises(UserError, match="holds 9999 test examples of mnist, not 10000"):
        load("mnist", directory=disguised)


def test_directory_prepared_as_tfrecord_is_said_to_be_so(tmp_path):
    version = tmp_path / "tensorflow_datasets" / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "mnist", "fileFormat": "tfrecord"}')
    run = python(LOAD, tmp_path, "mnist")
    assert run.returncode == 2 and "prepared as tfrecord, not as array_record" in run.stdout


# The cache.


def test_cache_suffices_without_tfds_data_and_network(mnist_cache, tmp_path):
    run = python(LOAD, tmp_path, "mnist", "tensorflow_datasets", DYNHP_CACHE=str(mnist_cache))
    assert (run.returncode, run.stdout) == (0, FIRST_LABELS), run.stderr


@pytest.mark.parametrize("kind", ["bit", "cut", "empty", "header", "shape", "directory"])
def test_damaged_cache_is_made_anew_with_a_warning(
    kind, mnist_cache, mnist, original_files, tmp_path, nowhere
):
    copy = tmp_path / "copy"
    shutil.copytree(mnist_cache, copy)
    (file,) = copy.glob("mnist/3.0.1/train-images-*.npy")
    raw = file.read_bytes()
    if kind == "bit":
        file.write_bytes(raw[:1_000_000] + bytes([raw[1_000_000] ^ 64]) + raw[1_000_001:])
    elif kind == "shape":
        with file.open("wb") as stream:
            np.save(stream, pixels(mnist.x_train).reshape(-1, 784))
    else:
        changed = {"cut": raw[:-5], "empty": b"", "header": raw[:8] + b"\xff" * 60 + raw[68:]}
        file.write_bytes(changed.get(kind, raw))
    if kind == "directory":
        (labels,) = copy.glob("mnist/3.0.1/test-labels-*.npy")
        labels.unlink()
        labels.mkdir()
        with pytest.warns(UserWarning, match="is not cached"):
            same(load("mnist", directory=original_files, cache=copy), mnist)
        return
    with pytest.warns(UserWarning, match="cached train split of mnist .* is damaged"):
        same(load("mnist", directory=original_files, cache=copy), mnist)
    assert file.read_bytes() == raw
    assert len(list(copy.rglob("*.npy"))) == len([f for f in copy.rglob("*") if f.is_file()]) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(load("mnist", cache=copy), mnist)


def test_a_cache_that_cannot_be_written_is_done_without(mnist, original_files, tmp_path, nowhere):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="mnist is not cached .* DYNHP_CACHE names another"):
        loaded = load("mnist", directory=original_files, cache=tmp_path / "file" / "cache")
    same(loaded, mnist)


def test_a_full_disk_leaves_nothing_half_written(original_files, tmp_path):
    """A limit on the size of files ends a write as a full disk does, in its middle."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    run = python(
        limited + LOAD, tmp_path, "mnist",
        DYNHP_ORIGINALS=str(original_files), DYNHP_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, FIRST_LABELS), run.stderr
    assert "mnist is not cached" in run.stderr
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
