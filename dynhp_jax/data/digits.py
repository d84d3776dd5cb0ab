"""scikit-learn's handwritten digits, and two tasks made of them: segments and scenes."""

import numpy as np

from dynhp_jax.data.catalogue import Arrays, hashed_order
from dynhp_jax.data.held_out import hold_out
from dynhp_jax.data.pairs import Pairs

WHITE = 16  # the largest pixel
# Of a seven-segment display: top, upper right, lower right, bottom, lower left, upper left, middle.
SEGMENTS = np.array(
    [[int(lit) for lit in row]
     for row in ("1111110", "0110000", "1101101", "1111001", "0110011",
                 "1011011", "1011111", "1110000", "1111111", "1111011")],
    np.float32,
)  # fmt: skip
_ARRANGEMENTS = 4  # scenes that a digit of the training set is in
_INK = 8  # pixels from this value on belong to a digit


def digits() -> tuple[Arrays, Arrays]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels from 0 to 16: 1,437 to train on, 360 to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images[..., None].astype(np.uint8), bunch.target.astype(np.uint8)
    order = hashed_order("digits", len(labels))
    train, test = np.sort(order[:1437]), np.sort(order[1437:])
    return (images[train], labels[train]), (images[test], labels[test])


def segments(share: float, seed: int) -> dict[str, Pairs]:
    """Which of seven segments show the digit: several labels that may all be true.

    Inputs f32[examples, 8, 8, 1] from 0 to 1, targets f32[examples, 7] of 0 and 1, see SEGMENTS.

    Args:
      share, seed: of the training set that is held out; see `hold_out`.
    """
    return {
        name: Pairs(np.float32(images) / WHITE, SEGMENTS[labels])
        for name, (images, labels) in _splits(share, seed).items()
    }


def scenes(share: float, seed: int) -> dict[str, Pairs]:
    """Four digits in a square: for each pixel, which digit it belongs to.

    Inputs f32[examples, 16, 16, 1] from 0 to 1; targets int32[examples, 16, 16]: 0 for paper, 1
    more than the digit for ink. Every digit of the training set is in four scenes, in other
    company; those of the other splits are in one. No digit is in two splits.

    Args:
      share, seed: as in `segments`.
    """
    found = {}
    for name, arrays in _splits(share, seed).items():
        times = _ARRANGEMENTS if name == "train" else 1
        parts = [_arranged(*arrays, f"{name} scenes {number}") for number in range(times)]
        found[name] = Pairs(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    return found


def _splits(share: float, seed: int) -> dict[str, Arrays]:
    (images, labels), test = digits()
    kept, held_out = hold_out(len(labels), share, seed)
    found = {"train": (images[kept], labels[kept]), "test": test}
    return found | ({"validation": (images[held_out], labels[held_out])} if share else {})


def _arranged(images: np.ndarray, labels: np.ndarray, salt: str) -> tuple[np.ndarray, np.ndarray]:
    """Scenes of all digits, but for what is left of less than four."""
    rows = hashed_order(salt, len(labels))
    rows = rows[: len(rows) // 4 * 4].reshape(-1, 2, 2)
    pixels = images[rows][..., 0].swapaxes(2, 3).reshape(-1, 16, 16)
    owners = np.repeat(np.repeat(labels[rows], 8, 1), 8, 2).astype(np.int32) + 1
    return np.float32(pixels[..., None]) / WHITE, np.where(pixels >= _INK, owners, 0)
