"""Reads the files that the authors published: idx (MNIST, Fashion-MNIST), CIFAR-10's binary."""

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.catalogue import Arrays, Published, Split, check

# What gzip and tarfile raise on damaged bytes.
_DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)

# Bytes of a CIFAR-10 record (label, image) and of one file of them.
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_FILE = 10_000 * _CIFAR_RECORD


def read(entry: Published, directory: Path) -> list[Arrays] | None:
    """Reads the original files of a data set from a directory.

    They may lie in `<name>/raw/` or `<name>/` below the directory, in the directory itself, or
    where CIFAR-10's archive unpacks; packed (`.gz`, `.tar.gz`) or not.

    Returns:
      The train and the test split, or None if no original file of the data set is there.

    Raises:
      UserError: some files are missing, damaged, or those of another data set.
    """
    # The named folders first: MNIST's files and Fashion-MNIST's have the same names.
    folders = [directory / entry.name / "raw", directory / entry.name, directory]
    folders += [folder / "cifar-10-batches-bin" for folder in folders[1:]]
    names = [file for split in entry.splits for file in split.files]
    where = {file: _find(file, folders) for file in names}
    archive = _find(entry.archive, folders) if entry.archive else None
    if archive is None and not any(where.values()):
        return None
    missing = [file for file, path in where.items() if path is None]
    if archive is None and missing:
        raise UserError(
            f"{directory} holds original files of {entry.name} but not {', '.join(missing)}"
            " (nor the same with .gz): add them"
        )
    if missing:
        contents = unpack(_bytes(archive), str(archive))
    else:

        def contents(file: str, limit: int) -> bytes:
            return _unpacked(where[file], limit)

    return decode(entry, contents, f"the original files in {directory}")


def decode(entry: Published, contents: Callable[[str, int], bytes], what: str) -> list[Arrays]:
    """Decodes and checks both splits.

    Args:
      entry: which data set.
      contents: (file, limit) -> at most `limit` unpacked bytes of an original file.
      what: the files' common name for error messages.

    Returns:
      The train and the test split.

    Raises:
      UserError: a file has not the magic number, counts or length that it must have, or its
        content is not the published one.
    """
    arrays = []
    for split in entry.splits:
        decoded = _decode_split(entry, split, contents)
        if problem := check(entry, split, decoded):
            raise UserError(f"{what} cannot be used: {problem}")
        arrays.append(decoded)
    return arrays


def unpack(raw: bytes, what: str) -> Callable[[str, int], bytes]:
    """`contents` for `decode` from CIFAR-10's `.tar.gz`, which errors call `what`."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
            for member in archive:
                # All are read now: to go back in the archive would unpack it from the front again.
                if member.isfile() and member.name.endswith(".bin"):
                    stream = archive.extractfile(member)
                    found[os.path.basename(member.name)] = stream.read(_CIFAR_FILE + 1)
    except _DAMAGED as error:
        raise UserError(f"{what} is damaged: {error}") from error

    def contents(file: str, limit: int) -> bytes:
        if file not in found:
            raise UserError(f"{what} does not hold {file}")
        return found[file][:limit]

    return contents


def gunzip(raw: bytes, limit: int, what: str) -> bytes:
    """At most `limit` bytes of gzipped `raw`, so that a hostile file cannot fill the memory."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            return stream.read(limit)
    except _DAMAGED as error:
        raise UserError(f"{what} is damaged: {error}") from error


def parse_idx(raw: bytes, shape: tuple[int, ...], what: str) -> np.ndarray:
    """An idx file of bytes (http://yann.lecun.com/exdb/mnist) whose shape is known.

    Args:
      raw: the unpacked file: two zero bytes, the type (8: unsigned byte), the number of
        dimensions, each dimension as a big-endian int32, the data.
      shape: the dimensions that it must have.
      what: the file's name for error messages.

    Returns:
      uint8[shape].

    Raises:
      UserError: the header says another type or shape, or the length does not follow from it.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), (2,), "labels").tolist()
    [7, 9]
    """
    header = struct.pack(f">{1 + len(shape)}i", 0x0800 + len(shape), *shape)
    if raw[: len(header)] != header:
        raise UserError(
            f"{what} is not an idx file of {' x '.join(map(str, shape))} bytes: it starts with"
            f" {raw[: len(header)].hex()}, not {header.hex()}"
        )
    found, expected = len(raw), len(header) + int(np.prod(shape))
    if found != expected:
        raise UserError(_wrong_length(what, found, expected))
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def parse_cifar(raw: bytes, examples: int, what: str) -> Arrays:
    """CIFAR-10's binary records: a label byte, then 32 x 32 bytes each of red, green and blue.

    Args:
      raw: the file (https://www.cs.toronto.edu/~kriz/cifar.html).
      examples: how many records it must hold.
      what: the file's name for error messages.

    Returns:
      Images uint8[examples, 32, 32, 3] and labels uint8[examples].

    Raises:
      UserError: the length is another, or a label is above 9.
    """
    if len(raw) != examples * _CIFAR_RECORD:
        raise UserError(_wrong_length(what, len(raw), examples * _CIFAR_RECORD))
    records = np.frombuffer(raw, np.uint8).reshape(examples, _CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise UserError(f"{what} holds the label {labels.max()}; CIFAR-10's labels are 0 to 9")
    images = records[:, 1:].reshape(examples, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.copy()


def _decode_split(entry: Published, split: Split, contents: Callable[[str, int], bytes]) -> Arrays:
    if entry.archive:
        examples = split.examples // len(split.files)
        limit = examples * (1 + entry.example_bytes) + 1
        parts = [parse_cifar(contents(file, limit), examples, file) for file in split.files]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)
    # Limits leave room for the header and one byte more, so that a longer file is noticed.
    images_file, labels_file = split.files
    shape = (split.examples, *entry.example_shape[:2])
    images = contents(images_file, split.examples * entry.example_bytes + 17)
    labels = contents(labels_file, split.examples + 9)
    return (
        parse_idx(images, shape, images_file)[..., None],
        parse_idx(labels, shape[:1], labels_file),
    )


def _find(file: str, folders: list[Path]) -> Path | None:
    # MNIST's own archives unpack to `train-images.idx3-ubyte`, with a dot.
    spellings = [file, f"{file}.gz", file.replace("-idx", ".idx")]
    candidates: Iterator[Path] = (folder / name for folder in folders for name in spellings)
    return next((path for path in candidates if os.path.isfile(path)), None)


def _unpacked(path: Path, limit: int) -> bytes:
    if path.suffix == ".gz":
        return gunzip(_bytes(path), limit, str(path))
    return _bytes(path, limit)


def _bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _wrong_length(what: str, found: int, expected: int) -> str:
    more = "at least " if found > expected else ""
    return f"{what} has {more}{found} bytes, not {expected}: it is damaged or another file"
