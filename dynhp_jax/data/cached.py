"""Decoded arrays on disk: uint8 `.npy` files, named by their content, written atomically.

`<folder>/<name>/<version>/<split>-images-<SHA-256>.npy`, and the same with `labels`. What a file
holds is hashed when it is read, so a damaged one is noticed and made anew. The cache makes things
faster and nothing else: where it cannot be written, training goes on without it.
"""

import contextlib
import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynhp_jax.data.catalogue import Arrays, Published, Split


def read(entry: Published, folder: Path | None) -> list[Arrays] | None:
    """The train and the test split, or None if they are not in the cache, whole and undamaged."""
    if folder is None:
        return None
    arrays = []
    for split in entry.splits:
        paths = _paths(entry, split, folder)
        if not all(map(os.path.isfile, paths)):
            return None
        try:
            decoded = tuple(np.load(path, allow_pickle=False) for path in paths)
            intact = split.is_published(decoded) and _has_shape(entry, split, decoded)
        except Exception:  # NumPy raises many kinds of error on damaged headers.
            intact = False
        if not intact:
            warnings.warn(
                f"the cached {split.name} split of {entry.name} in {paths[0].parent} is damaged:"
                " making it anew",
                stacklevel=3,
            )
            return None
        arrays.append(decoded)
    return arrays


def write(entry: Published, folder: Path | None, arrays: Sequence[Arrays]) -> None:
    """Puts the splits into the cache; warns, and leaves nothing half-written, where it cannot."""
    if folder is None:
        return
    try:
        for split, decoded in zip(entry.splits, arrays, strict=True):
            for path, array in zip(_paths(entry, split, folder), decoded, strict=True):
                _write(path, array)
    except OSError as error:
        warnings.warn(
            f"{entry.name} is not cached and will be decoded again next time: cannot write to"
            f" {folder} ({error.strerror or error}); DYNHP_CACHE names another directory",
            stacklevel=3,
        )


def _paths(entry: Published, split: Split, folder: Path) -> tuple[Path, Path]:
    parent = folder / entry.name / entry.version
    return (
        parent / f"{split.name}-images-{split.images_sha256[:16]}.npy",
        parent / f"{split.name}-labels-{split.labels_sha256[:16]}.npy",
    )


def _has_shape(entry: Published, split: Split, arrays: Arrays) -> bool:
    images, labels = arrays
    return (
        images.shape == (split.examples, *entry.example_shape)
        and labels.shape == (split.examples,)
        and images.dtype == labels.dtype == np.uint8
    )


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two runs that start together do not write into one file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
