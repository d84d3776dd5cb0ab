"""Original files: every layout is read to the same as the prepared directory; damage is refused."""

import gzip
import shutil

import numpy as np
import pytest
from data_files import same
from hypothesis import given
from hypothesis import strategies as st

from dynhp_jax.common.errors import UserError
from dynhp_jax.data import load, originals


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), data=st.data())
def test_idx_files_are_parsed(shape, data):
    size = int(np.prod(shape))
    body = data.draw(st.binary(min_size=size, max_size=size))
    header = b"\0\0\x08" + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    array = originals.parse_idx(header + body, shape, "file")
    assert array.shape == shape and array.tobytes() == body
    for wrong in (header + body[:-1], header + body + b"\0", b"\1" + header[1:] + body, b""):
        with pytest.raises(UserError, match="file"):
            originals.parse_idx(wrong, shape, "file")


def test_cifar_records_are_parsed():
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    raw = b"".join(bytes([label]) + planes[i].tobytes() for i, label in enumerate((9, 0, 4)))
    images, labels = originals.parse_cifar(raw, 3, "file")
    assert labels.tolist() == [9, 0, 4]
    assert images.shape == (3, 32, 32, 3)
    assert all((images[i, :, :, c] == planes[i, c]).all() for i in range(3) for c in range(3))
    for wrong in (raw[:-1], raw + b"\0", b"\x0a" + raw[1:]):
        with pytest.raises(UserError, match="file"):
            originals.parse_cifar(wrong, 3, "file")


@pytest.mark.parametrize("layout", ["plain", "packed", "dotted", "subfolder", "variable"])
def test_original_files_give_the_same_as_the_prepared_directory(
    layout, mnist, original_files, packed_files, tmp_path, monkeypatch, nowhere
):
    directory = {"plain": original_files, "packed": packed_files}.get(layout, tmp_path / "files")
    if layout == "dotted":
        directory.mkdir()
        for file in original_files.iterdir():
            (directory / file.name.replace("-idx", ".idx")).symlink_to(file)
    if layout == "subfolder":
        directory.mkdir()
        (directory / "mnist").symlink_to(packed_files)
    if layout == "variable":
        monkeypatch.setenv("DYNHP_ORIGINALS", str(original_files))
        directory = None
    assert not (tmp_path / "cache").exists()
    same(load("mnist", directory=directory), mnist)


def test_fashion_mnist_among_mnist_files_is_found_in_its_folder(original_files, tmp_path, nowhere):
    """The two have the same file names; the folder `fashion_mnist` comes first."""
    for file in original_files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "fashion_mnist").mkdir()
    (tmp_path / "fashion_mnist" / "train-images-idx3-ubyte").write_bytes(b"nothing")
    with pytest.raises(UserError, match="train-images-idx3-ubyte is not an idx file"):
        load("fashion_mnist", directory=tmp_path)


def damage(folder, kind):
    labels, images = folder / "train-labels-idx1-ubyte", folder / "train-images-idx3-ubyte"
    raw = images.read_bytes()
    if kind == "missing":
        labels.unlink()
    elif kind == "short":
        images.write_bytes(raw[:-1000])
    elif kind == "long":
        images.write_bytes(raw + b"\0")
    elif kind == "magic":
        images.write_bytes(b"GIF8" + raw[4:])
    elif kind == "pixel":
        images.write_bytes(raw[:100_000] + bytes([raw[100_000] ^ 1]) + raw[100_001:])
    elif kind == "gzip":
        images.unlink()
        packed = gzip.compress(raw, 1)
        (folder / f"{images.name}.gz").write_bytes(packed[: len(packed) // 2])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "but not train-labels-idx1-ubyte"),
        ("short", "has 47039016 bytes, not 47040016"),
        ("long", "has at least 47040017 bytes, not 47040016"),
        ("magic", "starts with 47494638"),
        ("pixel", "the train examples are not those of mnist"),
        ("gzip", "train-images-idx3-ubyte.gz is damaged"),
    ],
)
def test_damaged_original_files_are_refused(kind, message, original_files, tmp_path, nowhere):
    folder = tmp_path / "files"
    shutil.copytree(original_files, folder)
    damage(folder, kind)
    with pytest.raises(UserError, match=message) as caught:
        load("mnist", directory=folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_files_of_another_dataset_are_named(original_files, nowhere):
    with pytest.raises(UserError, match="those of mnist, not of fashion_mnist"):
        load("fashion_mnist", directory=original_files)
