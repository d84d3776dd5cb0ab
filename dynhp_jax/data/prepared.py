"""Reads directories that tensorflow-datasets prepared as array_record; TensorFlow is not needed.

TFDS imports the classes that a directory names for its features, and a directory may come from
anybody. So it is handed only directories that name classes of TFDS.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dynhp_jax.common import json_files, schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.data.catalogue import Arrays, Published, Split, Unavailable, check, hashed_order

# Examples decoded at a time: enough to gain by reading in bulk, little enough to watch progress.
_CHUNK = 2_500
_CLASSES = "tensorflow_datasets.core.features."  # that a directory may name
_NAMING = ("pythonClassName", "python_class_name", "type")  # keys under which it does
_INFO = schema.fields({"fileFormat": schema.TEXT})


def read(entry: Published, roots: Iterable[Path]) -> list[Arrays]:
    """Reads a data set from the first root that holds it.

    TFDS is imported only when there is something for it to read: it never looks at the network.

    Args:
      entry: which data set.
      roots: data directories, as TFDS's `data_dir`; they hold `<name>/<version>/`.

    Returns:
      The train and the test split, in the order of the original files.

    Raises:
      Unavailable: none holds it as array_record, or TFDS cannot be imported.
      UserError: what one holds is damaged or not the published data.
    """
    reasons = []
    for root in roots:
        folder = root / entry.name / entry.version
        if not os.path.isfile(folder / "dataset_info.json"):
            reasons.append(f"{folder} is not a prepared directory")
        elif (found := _file_format(folder)) != "array_record":
            reasons.append(f"{folder} is prepared as {found}, not as array_record")
        else:
            _check_classes(folder)
            return _read(entry, folder)
    raise Unavailable("; ".join(reasons) or "no prepared directory is known")


def _file_format(folder: Path) -> str:
    remedy = "it is damaged: prepare it anew"
    return json_files.read(folder / "dataset_info.json", _INFO, remedy)["fileFormat"]


def _json(path: Path) -> Any:
    return json_files.read(path, schema.ANY, "it is damaged: prepare it anew")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error!r}): prepare it anew")


def _check_classes(folder: Path) -> None:
    """Raises UserError if TFDS would import other code than its own to read a directory."""
    described = {"features.json": lambda values: values,
                 "dataset_info.json": lambda values: values.get("features")}  # fmt: skip
    for name, part in described.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            classes = list(_classes(part(_json(path))))
        except (AttributeError, ValueError, RecursionError) as error:
            raise _damaged(path, error) from error
        others = [each for each in classes if not each.startswith(_CLASSES)]
        if others:
            raise UserError(
                f"{path} names the class {others[0]!r}; allowed: those of {_CLASSES}*, as no code"
                " is run that a file names; prepare it anew"
            )


def _classes(values: Any) -> Iterable[str]:
    """The classes that a description of features names, also in JSON within JSON."""
    if isinstance(values, str) and values.lstrip().startswith(("{", "[")):
        values = json_files.loads(values.encode())
    if isinstance(values, dict):
        yield from (str(values[key]) for key in _NAMING if key in values)
        values = [value for key, value in values.items() if key not in _NAMING]
    if isinstance(values, list):
        for value in values:
            yield from _classes(value)


def _read(entry: Published, folder: Path) -> list[Arrays]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Unavailable(f"tensorflow_datasets, to read {folder}, is missing ({error})") from error
    if not hasattr(tfds, "builder_from_directory"):  # It logs why it cannot be imported, no more.
        raise Unavailable(f"tensorflow_datasets, to read {folder}, cannot be imported whole")

    arrays = []
    for split in reversed(entry.splits):  # The small one first: it tells sooner what is wrong.
        try:
            decoded = _read_split(tfds, entry, split, folder)
        except UserError:
            raise
        except ImportError as error:  # TFDS imports what it decodes with when it comes to that.
            needed = str(error).splitlines()[0]
            raise Unavailable(f"TFDS lacks a package to read {folder} ({needed})") from error
        except Exception as error:  # Whatever array_record or the image decoder make of bad bytes.
            raise UserError(
                f"the prepared directory {folder} is damaged ({error!r}): prepare it anew"
            ) from error
        if problem := check(entry, split, decoded):
            raise UserError(f"the prepared directory {folder} cannot be used: {problem}")
        arrays.append(decoded)
    return arrays[::-1]


def _read_split(tfds, entry: Published, split: Split, folder: Path) -> Arrays:
    source = tfds.builder_from_directory(folder).as_data_source(split=split.name)
    if len(source) != split.examples:
        raise UserError(
            f"{folder} holds {len(source)} {split.name} examples of {entry.name},"
            f" not {split.examples}: prepare it anew"
        )
    images = np.empty((split.examples, *entry.example_shape), np.uint8)
    labels = np.empty(split.examples, np.uint8)
    order = hashed_order(split.name, split.examples)
    starts = range(0, split.examples, _CHUNK)
    for start in tqdm(starts, f"decoding {entry.name} {split.name}", leave=False, disable=None):
        rows = range(start, min(start + _CHUNK, split.examples))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            images[order[row]] = example["image"]
            labels[order[row]] = example["label"]
    return images, labels
