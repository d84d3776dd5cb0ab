"""Images of some of the classes, in another size: as a network that was trained elsewhere reads."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.data.loading import Dataset

_AT_ONCE = 1000  # images


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The examples of some classes, which are numbered anew in the order in which they are given.

    Raises:
      ArgumentError: there is no such class, one is given twice, or only one.
    """
    known = range(dataset.num_classes)
    if len(set(classes)) < max(2, len(classes)) or any(each not in known for each in classes):
        allowed = f"() for all, or two at least of 0 to {dataset.num_classes - 1}, each once"
        raise ArgumentError("classes", tuple(classes), allowed)
    number = np.full(dataset.num_classes, -1, np.int32)
    number[list(classes)] = np.arange(len(classes))
    arrays = {}
    for split in ("train", "validation", "test"):
        labels = number[getattr(dataset, f"y_{split}")]
        arrays[f"x_{split}"] = getattr(dataset, f"x_{split}")[labels >= 0]
        arrays[f"y_{split}"] = labels[labels >= 0]
    return dataclasses.replace(dataset, num_classes=len(classes), **arrays)


def in_size(dataset: Dataset, size: int, channels: int) -> Dataset:
    """Images brought to a size, by linear interpolation, and to a number of equal channels.

    Args:
      dataset: of images.
      size: height and width; 0 for those that they have.
      channels: 0 for those that they have.

    Raises:
      ArgumentError: the examples are no images, or have several channels already.
    """
    shape = dataset.example_shape
    if len(shape) != 3:
        field, value = ("size", size) if size else ("channels", channels)
        raise ArgumentError(field, value, f"0 with examples of shape {shape}, which are no images")
    if channels and shape[2] not in (1, channels):
        raise ArgumentError("channels", channels, f"0 or {shape[2]}, which these images have")
    sides = (size, size) if size else shape[:2]
    wanted = (*sides, channels or shape[2])
    arrays = {}
    for split in ("train", "validation", "test"):
        images = getattr(dataset, f"x_{split}")
        found = np.empty((len(images), *wanted), np.float32)
        for first in range(0, len(images), _AT_ONCE):
            part = images[first : first + _AT_ONCE]
            resized = jax.image.resize(part, (len(part), *sides, shape[2]), "linear")
            found[first : first + _AT_ONCE] = np.broadcast_to(resized, (len(part), *wanted))
        arrays[f"x_{split}"] = found
    return dataclasses.replace(dataset, **arrays)
