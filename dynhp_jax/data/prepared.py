"""Reads directories that tensorflow-datasets prepared as array_record; TensorFlow is not needed."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dynhp_jax.data.catalogue import Arrays, Published, Split, Unavailable, check, hashed_order
from dynhp_jax.errors import UserError

# Examples decoded at a time: enough to gain by reading in bulk, little enough to watch progress.
_CHUNK = 2_500


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
            return _read(entry, root, folder)
    raise Unavailable("; ".join(reasons) or "no prepared directory is known")


def _file_format(folder: Path) -> str:
    try:
        return json.loads((folder / "dataset_info.json").read_text())["fileFormat"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'dataset_info.json'} is damaged ({error!r}): prepare it anew"
        ) from error


def _read(entry: Published, root: Path, folder: Path) -> list[Arrays]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Unavailable(f"tensorflow_datasets, to read {folder}, is missing ({error})") from error
    if not hasattr(tfds, "data_source"):  # TFDS logs what goes wrong in its import and goes on.
        raise Unavailable(f"tensorflow_datasets, to read {folder}, cannot be imported whole")

    arrays = []
    for split in reversed(entry.splits):  # The small one first: it tells sooner what is wrong.
        try:
            decoded = _read_split(tfds, entry, split, root)
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


def _read_split(tfds, entry: Published, split: Split, root: Path) -> Arrays:
    source = tfds.data_source(
        f"{entry.name}:{entry.version}", split=split.name, data_dir=root, download=False
    )
    if len(source) != split.examples:
        raise UserError(
            f"{root / entry.name / entry.version} holds {len(source)} {split.name} examples of"
            f" {entry.name}, not {split.examples}: prepare it anew"
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
