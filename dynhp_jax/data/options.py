"""Options of the data."""

import dataclasses
import math

from dynhp_jax import data
from dynhp_jax.common.fields import (
    Section,
    as_whole,
    named,
    number,
    several,
    size_in_bytes,
    switch,
    text,
    whole,
)


def _label(value) -> int:
    if as_whole(value) < 0:
        raise ValueError
    return value


def labels(help: str):
    """A field of classes; () for all."""
    return several((), _label, "whole numbers from 0, such as (5, 6, 7, 8, 9)", help)


@dataclasses.dataclass(frozen=True)
class Data(Section):
    prefix = "data."
    name: str = named(
        "digits", data.NAMES, "the dataset; all but mnist, fashion_mnist, cifar10 need no download"
    )
    dir: str = text("", "a prepared tfds directory; empty: $TFDS_DATA_DIR or tfds's default")
    cache_dir: str = text("", "where decoded arrays are kept; empty: $DYNHP_CACHE or ~/.cache")
    examples: int = whole(0, 0, "the first so many of the training set are used; 0: all")
    classes: tuple[int, ...] = labels(
        "examples of these classes alone, which are numbered anew; (): all"
    )
    size: int = whole(
        0, 0, "height and width that images are brought to; 0: as they are", high=1024
    )
    channels: int = whole(
        0, 0, "so many equal ones of images that have one channel; 0: as they are", high=64
    )
    resident: str = size_in_bytes(
        "2GiB", "a split whose images take more stays on the host and is sent in chunks"
    )
    validation: float = number(
        0.0,
        0.0,
        0.9,
        "a number from 0 to 0.9",
        "share of the training set held out; its error is reported, too",
    )
    noise: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "standard deviation of Gaussian noise on the inputs in training",
    )  # fmt: skip
    shift: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more",
        "standard deviation, in pixels, of random moves of training images",
    )  # fmt: skip
    flip: bool = switch(False, "mirror training images at random, left to right")

    @property
    def augmented(self) -> bool:
        """Whether training sees images moved or mirrored."""
        return self.shift > 0 or self.flip
