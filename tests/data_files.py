"""Original files as published, and processes that have nothing but what a test gives them."""

import dataclasses
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from patience import PATIENCE

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
        timeout=PATIENCE,
    )


# Loads sys.argv[1] where the modules in sys.argv[2:] cannot be found; TensorFlow is never imported.
LOAD = """
import sys
class Hidden:
    def find_spec(name, path=None, target=None):
        if name in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden)
from dynhp_jax.data.loading import load
from dynhp_jax.common.errors import UserError
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
