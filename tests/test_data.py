"""dynhp_jax.data: real data by every way, equal to what was published; damage; no way at all."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynhp_jax.data import NAMES, download, load, originals
from dynhp_jax.data.catalogue import PUBLISHED, Unavailable
from dynhp_jax.errors import ConfigError, UserError

# Published hashes of the unpacked original files, the oracle for content and order.
MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
CIFAR_SHA1 = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
}
MNIST = PUBLISHED["mnist"]


def pixels(x):
    """The bytes that were scaled to f32 from 0 to 1."""
    return np.rint(x * np.float32(255)).astype(np.uint8)


def idx_files(dataset):
    """The four original files, written anew from what was loaded: {name: bytes}."""
    files = {}
    for part, x, y in (
        ("train", dataset.x_train, dataset.y_train),
        ("t10k", dataset.x_test, dataset.y_test),
    ):
        images = struct.pack(">4I", 2051, len(x), 28, 28) + pixels(x).tobytes()
        labels = struct.pack(">2I", 2049, len(y)) + y.astype(np.uint8).tobytes()
        files[f"{part}-images-idx3-ubyte"] = images
        files[f"{part}-labels-idx1-ubyte"] = labels
    return files


def same(a, b):
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def python(code, tmp_path, *arguments, **environment):
    """Runs code in a new process that has no data, no cache and no network but what is given."""
    dead = "http://127.0.0.1:9"
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    for name in ("TFDS_DATA_DIR", "DYNHP_ORIGINALS", "DYNHP_CACHE", "XDG_CACHE_HOME"):
        inherited.pop(name, None)
    given = {"HOME": str(tmp_path), "http_proxy": dead, "https_proxy": dead, **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=inherited | given,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )


# Loads sys.argv[1] where the modules in sys.argv[2:] cannot be found; TensorFlow is never imported.
LOAD = """
import sys
class Hidden:
    def find_spec(name, path=None, target=None):
        if name in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden)
from dynhp_jax.data import load
from dynhp_jax.errors import UserError
try:
    dataset = load(sys.argv[1])
except UserError as error:
    print("error:", error)
    sys.exit(2)
assert "tensorflow" not in sys.modules
print(len(dataset.x_train), dataset.y_train[:10].tolist(), dataset.y_test[:10].tolist())
"""
# As every tutorial prints them, from the original files.
FIRST_LABELS = "60000 [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]\n"


@pytest.fixture(scope="module")
def cache(tfds_dir, dynhp_cache, tmp_path_factory):
    """A cache that holds MNIST, decoded from the prepared directory without TensorFlow."""
    folder = tmp_path_factory.mktemp("cache")
    run = python(
        LOAD, folder, "mnist", TFDS_DATA_DIR=str(tfds_dir), XDG_CACHE_HOME=str(folder / "xdg")
    )
    assert (run.returncode, run.stdout) == (0, FIRST_LABELS), run.stderr
    decoded = folder / "xdg" / "dynhp_jax"
    # Other files' tests need not decode it again.
    shutil.copytree(decoded, dynhp_cache, dirs_exist_ok=True)
    return decoded


@pytest.fixture(scope="module")
def mnist(cache):
    return load("mnist", cache=cache)


@pytest.fixture(scope="module")
def original_files(mnist, tmp_path_factory):
    """A directory of MNIST's original files: they have the published hashes."""
    folder = tmp_path_factory.mktemp("originals")
    for name, raw in idx_files(mnist).items():
        assert hashlib.md5(raw).hexdigest() == MD5["mnist"][name]
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture(scope="module")
def packed_files(original_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for file in original_files.iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
    return folder


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data beside what a test names."""
    for name in ("TFDS_DATA_DIR", "DYNHP_ORIGINALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DYNHP_CACHE", str(tmp_path / "cache"))


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


@pytest.mark.slow
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


def test_flat_examples_are_the_same_numbers_in_rows(mnist, cache):
    flat = load("mnist", cache=cache, flat=True)
    assert flat.example_shape == (784,)
    np.testing.assert_array_equal(flat.x_test, mnist.x_test.reshape(-1, 784))


def test_arrays_cannot_be_changed():
    digits = load("digits")
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.name = "mnist"


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


# The original files.


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


def test_cache_suffices_without_tfds_data_and_network(cache, tmp_path):
    run = python(LOAD, tmp_path, "mnist", "tensorflow_datasets", DYNHP_CACHE=str(cache))
    assert (run.returncode, run.stdout) == (0, FIRST_LABELS), run.stderr


@pytest.mark.parametrize("kind", ["bit", "cut", "empty", "header", "shape", "directory"])
def test_damaged_cache_is_made_anew_with_a_warning(
    kind, cache, mnist, original_files, tmp_path, nowhere
):
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
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


# The download.


@pytest.fixture
def serve(monkeypatch):
    """serve(handler) -> base address of a local HTTP server, stopped after the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Portal(Quiet):
    """A captive portal: a page in place of every file."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please sign in</html>")


class BreaksOff(Quiet):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(bytes(1000))


@pytest.fixture
def silent():
    """Base address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_download_from_the_mirror_that_answers(mnist, packed_files, serve, silent):
    live = serve(functools.partial(Quiet, directory=str(packed_files)))
    (x_train, y_train), (x_test, y_test) = download.fetch(
        MNIST, mirrors=["http://127.0.0.1:9/", silent, live]
    )
    np.testing.assert_array_equal(x_train, pixels(mnist.x_train))
    np.testing.assert_array_equal(y_train, mnist.y_train)
    np.testing.assert_array_equal(x_test, pixels(mnist.x_test))
    np.testing.assert_array_equal(y_test, mnist.y_test)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (Portal, "train-images-idx3-ubyte.gz is damaged: Not a gzipped file"),
        (BreaksOff, "broke off"),
        (functools.partial(Quiet, directory=os.devnull), "HTTP Error 404"),
    ],
)
def test_downloads_that_cannot_be_used(handler, message, serve, monkeypatch):
    base = serve(handler)
    with pytest.raises(Unavailable, match=message):
        download.fetch(MNIST, mirrors=[base])


def test_a_silent_server_is_not_waited_for(silent, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(Unavailable, match=r"no answer within 2\.5 s"):
        download.fetch(MNIST, mirrors=[silent])


# No way at all.


@pytest.mark.parametrize("network", ["refused", "silent"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_data_and_network_one_line_names_three_ways(name, network, silent, tmp_path):
    """`timeout` of the process is the guard against the hang that must not be."""
    proxy = {"http_proxy": silent, "https_proxy": silent} if network == "silent" else {}
    run = python(LOAD, tmp_path, name, **proxy)
    assert run.returncode == 2 and run.stderr == ""
    (line,) = run.stdout.splitlines()
    for way in ("TFDS_DATA_DIR", "--config.data.dir", "original files", "configs/digits.py"):
        assert way in line
    assert PUBLISHED[name].version in line and "the download failed" in line


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tensorflow_datasets", "is missing"),
        ("etils.epath", "cannot be imported whole"),
        ("array_record", "TFDS lacks a package .*No module named 'array_record'"),
        ("PIL", "TFDS lacks a package .*requires either OpenCV or PIL"),
    ],
)
def test_missing_packages_are_named(module, message, tfds_dir, tmp_path):
    if module == "PIL" and importlib.util.find_spec("cv2"):
        pytest.skip("OpenCV is installed and TFDS takes it before pillow")
    run = python(LOAD, tmp_path, "mnist", module, TFDS_DATA_DIR=str(tfds_dir))
    line = run.stdout.splitlines()[-1]  # TFDS prints a banner of its own when array_record lacks.
    assert run.returncode == 2
    assert re.search(message, line) and "Three ways out" in line


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
    with pytest.raises(ConfigError, match=r"config\.data\.name is") as caught:
        load(name)
    assert ", ".join(NAMES) in str(caught.value) and "did you mean" in str(caught.value)
    assert hint in str(caught.value)


def test_a_name_like_no_other_gets_the_list_alone():
    with pytest.raises(ConfigError) as caught:
        load("imagenet")
    assert ", ".join(NAMES) in str(caught.value) and "did you mean" not in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_validation_outside_its_range(share):
    with pytest.raises(ConfigError, match=r"config\.data\.validation .* from 0 to below 1"):
        load("digits", validation=share)


def test_directory_that_does_not_exist(tmp_path, cache):
    """Even where the cache would do: the name is wrong, and is better known now."""
    with pytest.raises(ConfigError, match=r"config\.data\.dir is .*nothing.*existing directory"):
        load("mnist", directory=tmp_path / "nothing", cache=cache)
