"""`load`: a name to arrays that are ready for a device, by the first way that is open."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynhp_jax.common import cache_folder, paths
from dynhp_jax.common.errors import ArgumentError, UserError
from dynhp_jax.data import cached, download, originals, prepared
from dynhp_jax.data.catalogue import PUBLISHED, Arrays, Published, Unavailable
from dynhp_jax.data.digits import digits
from dynhp_jax.data.held_out import hold_out
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.shipped import SHIPPED
from dynhp_jax.data.task_data import TaskData

NAMES = ("digits", *PUBLISHED, *SHIPPED)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in host memory; those of `load` are read-only.

    One of your own may hold floats and integers of any size, also as `jax.Array`s: they become what
    is said below. Pixels are not looked at.

    Attributes:
      name: as given to `load`.
      version: of the preparation.
      num_classes: labels run from 0 to this, less one.
      x_train: f32[examples, height, width, channels] from 0 to 1, or f32[examples, features].
      y_train: int32[examples].
      x_validation, y_validation: the part of the training set that was held out, maybe empty.
      x_test, y_test: the published test set.

    Raises:
      UserError: images are no floats or not all of one shape, labels are no integers or outside
        their range, there is not one label to each example, or no example to train or test on.
    """

    name: str
    version: str
    num_classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __post_init__(self):
        for split in ("train", "validation", "test"):
            names = f"x_{split}", f"y_{split}"
            images, labels = (np.asarray(getattr(self, name)) for name in names)
            _check_counts(split, images, labels)
            if len(labels):
                _check_types(split, images, labels)
                _check_range(split, labels, self.num_classes)
                _check_shape(split, images.shape[1:], self.example_shape)
            # As they are trained on: of another type, they would be other programs' operands.
            arrays = images.astype(np.float32, copy=False), labels.astype(np.int32, copy=False)
            for name, array in zip(names, arrays, strict=True):
                object.__setattr__(self, name, array)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: (height, width, channels) or (features,)."""
        return self.x_train.shape[1:]

    @property
    def splits(self) -> dict[str, Pairs]:
        """'train', 'test' and, if some of it is held out, 'validation'."""
        names = ("train", "test", "validation")
        found = {
            each: Pairs(getattr(self, f"x_{each}"), getattr(self, f"y_{each}")) for each in names
        }
        return {name: pairs for name, pairs in found.items() if len(pairs)}


def _check_counts(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim < 2 or labels.shape != images.shape[:1]:
        raise UserError(
            f"x_{split} and y_{split} of the data set have shapes {images.shape} and"
            f" {labels.shape}; allowed: (examples, ...) and (examples,); give one label to each"
            " example"
        )
    if not len(labels) and split != "validation":
        raise UserError(
            f"x_{split} and y_{split} of the data set are empty; allowed: at least one example, as"
            " every run trains and tests; put some there"
        )


def _check_types(split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"x_{split} of the data set is {images.dtype}; allowed: floats, best from 0 to 1; from"
            f" 0 to 255, give np.float32(x_{split}) / 255"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"y_{split} of the data set is {labels.dtype}; allowed: integers, the numbers of the"
            f" classes; give y_{split}.astype(np.int32) if they are"
        )


def _check_range(split: str, labels: np.ndarray, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"y_{split} of the data set runs from {low} to {high}; allowed: from 0 to"
            f" {classes - 1}, as num_classes is {classes}; number the classes from 0, or set"
            " num_classes"
        )


def _check_shape(split: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise UserError(
            f"examples of x_{split} of the data set have shape {found}; allowed: {wanted}, as in"
            " x_train; bring all to one shape"
        )


def load(
    name: str,
    *,
    directory: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    flat: bool = False,
    validation: float = 0.0,
    validation_seed: int = 0,
) -> Dataset | TaskData:
    """Loads a data set, the same examples in the same order whichever way they come.

    The ways, in this order: the cache; a directory prepared by tensorflow-datasets (`directory`,
    `TFDS_DATA_DIR`, `~/tensorflow_datasets`); the original files (`directory`,
    `DYNHP_ORIGINALS`); a download of the original files. `digits` and the names of `SHIPPED` come
    with scikit-learn and Python.

    Args:
      name: one of `NAMES`.
      directory: holds either prepared data or original files.
      cache: of decoded arrays; None: `DYNHP_CACHE`, else the user's cache directory.
      flat: give images of classes as vectors of features.
      validation: share of the training set, from 0 to below 1, to hold out.
      validation_seed: another seed holds out another part.

    Returns:
      A `Dataset`, whose images are scaled here, on the host and once, to f32 from 0 to 1; of the
      names of `SHIPPED` a `TaskData`.

    Raises:
      ArgumentError: `name`, `directory` or `validation` is not allowed.
      UserError: no way is open, `directory` holds damaged data, or a path given here or in the
        environment can be none.

    >>> digits = load("digits", flat=True)
    >>> digits.x_train.shape, digits.x_test.shape, digits.num_classes
    ((1437, 64), (360, 64), 10)
    """
    if name not in NAMES:
        raise ArgumentError("name", name, _allowed_names(name))
    if not 0 <= validation < 1:
        raise ArgumentError("validation", validation, "a number from 0 to below 1")
    directory = paths.given(directory, "config.data.dir") if directory else None
    cache = paths.given(cache, "config.data.cache_dir") if cache else None
    if directory and not os.path.isdir(directory):
        raise ArgumentError("directory", str(directory), "an existing directory")

    if name in SHIPPED:
        return SHIPPED[name].load(name, validation, validation_seed)
    if name == "digits":
        version, num_classes, white = "1", 10, 16
        train, test = digits()
    else:
        entry = PUBLISHED[name]
        version, num_classes, white = entry.version, entry.num_classes, 255
        train, test = _published(entry, directory, cache or cache_folder.default_folder())

    def ready(arrays: Arrays, rows: np.ndarray | slice) -> Arrays:
        images, labels = arrays[0][rows], arrays[1][rows]
        x = np.divide(images, np.float32(white), dtype=np.float32)
        x = x.reshape(len(x), math.prod(x.shape[1:])) if flat else x
        y = labels.astype(np.int32)
        x.flags.writeable = y.flags.writeable = False
        return x, y

    kept, held_out = hold_out(len(train[1]), validation, validation_seed)
    x_train, y_train = ready(train, kept)
    x_validation, y_validation = ready(train, held_out)
    x_test, y_test = ready(test, slice(None))
    return Dataset(
        name=name,
        version=version,
        num_classes=num_classes,
        x_train=x_train,
        y_train=y_train,
        x_validation=x_validation,
        y_validation=y_validation,
        x_test=x_test,
        y_test=y_test,
    )


def _published(entry: Published, directory: Path | None, folder: Path | None) -> list[Arrays]:
    if (arrays := cached.read(entry, folder)) is not None:
        return arrays
    arrays = _uncached(entry, directory)
    cached.write(entry, folder, arrays)
    return arrays


def _uncached(entry: Published, directory: Path | None) -> list[Arrays]:
    reasons = []
    try:
        return prepared.read(entry, _prepared_roots(directory))
    except Unavailable as reason:
        reasons.append(str(reason))
    for place in _places(directory, "DYNHP_ORIGINALS"):
        if (arrays := originals.read(entry, place)) is not None:
            return arrays
        reasons.append(f"{place} holds no original files")
    try:
        return download.fetch(entry)
    except Unavailable as reason:
        reasons.append(str(reason))
    files = entry.archive or ", ".join(f"{f}.gz" for split in entry.splits for f in split.files)
    raise UserError(
        f"no data for {entry.name}: {'; '.join(reasons)}. Three ways out: (1) a directory that"
        f" tensorflow-datasets prepared as array_record and that holds"
        f" {entry.name}/{entry.version}, named by TFDS_DATA_DIR or --config.data.dir; (2) the"
        f" original files ({files}) in a directory named by --config.data.dir or DYNHP_ORIGINALS;"
        " (3) --config=configs/digits.py, whose data comes with scikit-learn"
    )


def _prepared_roots(directory: Path | None) -> Iterator[Path]:
    yield from _places(directory, "TFDS_DATA_DIR")
    if default := paths.in_home("tensorflow_datasets"):
        yield default


def _places(directory: Path | None, variable: str) -> Iterator[Path]:
    if directory:
        yield directory
    if place := paths.of_environment(variable):
        yield place


def _allowed_names(found: str) -> str:
    spelt = str(found).lower().replace("-", "_")
    close = difflib.get_close_matches(spelt, NAMES, n=2, cutoff=0.6)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    return f"one of {', '.join(NAMES)}{hint}"
