"""What is known beforehand about each published data set: shapes, counts, file names, hashes.

The canonical order of the examples is that of the original files. TFDS stores them shuffled; its
reader puts them back. So one SHA-256 per array says whether the data is the published data,
whichever way it came: prepared directory, original files, download or cache.
"""

import dataclasses
import hashlib

import numpy as np

# A decoded split: images uint8[examples, height, width, channels], labels uint8[examples].
Arrays = tuple[np.ndarray, np.ndarray]


class Unavailable(Exception):
    """This way to the data is closed (its text says why); the next one may be open."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a published data set.

    Attributes:
      name: TFDS's name of the split, `train` or `test`.
      examples: how many there are.
      images_sha256: of the bytes of uint8[examples, height, width, channels].
      labels_sha256: of the bytes of uint8[examples].
      files: the original files that hold it, without `.gz`: images and labels for idx, else parts.
    """

    name: str
    examples: int
    images_sha256: str
    labels_sha256: str
    files: tuple[str, ...]

    def is_published(self, arrays: Arrays) -> bool:
        """Whether the arrays are, bit for bit, the published ones in the original order."""
        images, labels = arrays
        return digest(images) == self.images_sha256 and digest(labels) == self.labels_sha256


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set that lives outside this package.

    Attributes:
      name: as `load` and TFDS spell it.
      version: TFDS's version of the preparation.
      example_shape: (height, width, channels).
      num_classes: labels run from 0 to this, less one.
      train, test: the splits.
      archive: the tar file that holds the original files, or None if each is a `.gz` of its own.
      mirrors: base addresses of the original files, each enough by itself.
    """

    name: str
    version: str
    example_shape: tuple[int, int, int]
    num_classes: int
    train: Split
    test: Split
    archive: str | None
    mirrors: tuple[str, ...]

    @property
    def splits(self) -> tuple[Split, Split]:
        return self.train, self.test

    @property
    def example_bytes(self) -> int:
        return int(np.prod(self.example_shape))


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, as hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def hashed_order(salt: str, count: int) -> np.ndarray:
    """A fixed shuffle of range(count), the same on every machine and for every NumPy.

    TFDS stores split `salt` in this order (example j of its data source is original example
    `hashed_order(split, count)[j]`).

    Args:
      salt: any text; another salt gives another shuffle.
      count: how many indices.

    Returns:
      int64[count], a permutation.

    >>> hashed_order("train", 5).tolist()
    [4, 0, 3, 1, 2]
    """

    def key(index: int) -> bytes:
        return hashlib.md5(f"{salt}{index}".encode(), usedforsecurity=False).digest()

    return np.array(sorted(range(count), key=key), dtype=np.int64)


def _idx_files(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


_MNIST = Published(
    name="mnist",
    version="3.0.1",
    example_shape=(28, 28, 1),
    num_classes=10,
    train=Split(
        name="train",
        examples=60_000,
        images_sha256="741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        labels_sha256="1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        files=_idx_files("train"),
    ),
    test=Split(
        name="test",
        examples=10_000,
        images_sha256="6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        labels_sha256="ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        files=_idx_files("t10k"),
    ),
    archive=None,
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
)

_FASHION_MNIST = Published(
    name="fashion_mnist",
    version="3.0.1",
    example_shape=(28, 28, 1),
    num_classes=10,
    train=Split(
        name="train",
        examples=60_000,
        images_sha256="2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        labels_sha256="657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        files=_idx_files("train"),
    ),
    test=Split(
        name="test",
        examples=10_000,
        images_sha256="c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        labels_sha256="3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        files=_idx_files("t10k"),
    ),
    archive=None,
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
)

_CIFAR10 = Published(
    name="cifar10",
    version="3.0.2",
    example_shape=(32, 32, 3),
    num_classes=10,
    train=Split(
        name="train",
        examples=50_000,
        images_sha256="47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        labels_sha256="2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        files=tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
    ),
    test=Split(
        name="test",
        examples=10_000,
        images_sha256="f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        labels_sha256="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        files=("test_batch.bin",),
    ),
    archive="cifar-10-binary.tar.gz",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
)

PUBLISHED = {entry.name: entry for entry in (_MNIST, _FASHION_MNIST, _CIFAR10)}


def check(entry: Published, split: Split, decoded: Arrays) -> str | None:
    """What is wrong with a decoded split, or None if it is the published one."""
    if split.is_published(decoded):
        return None
    for other in PUBLISHED.values():
        if getattr(other, split.name).is_published(decoded):
            return f"the {split.name} examples are those of {other.name}, not of {entry.name}"
    return f"the {split.name} examples are not those of {entry.name} (SHA-256 differs)"
