"""The topics of Python's built-in `help()`, about 450,000 characters, to predict the next one.

The text is the one of the Python that runs: another version of Python has another.
"""

from collections.abc import Sequence

import numpy as np

from dynhp_jax.data.catalogue import hashed_order
from dynhp_jax.data.pairs import Pairs

LENGTH = 64  # characters of an example
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
CHARACTERS = len(ALPHABET) + 1  # the last number stands for any other one
_TESTED_ON = 0.1  # of the characters


def python_topics(share: float, seed: int) -> dict[str, Pairs]:
    """Tokens int32[examples, 64] and, as targets of the same shape, those that follow each.

    Whole topics are in one split or another; the windows do not overlap.

    Args:
      share: of the characters of the training set that is held out, from 0 to below 1.
      seed: another one holds out other topics.
    """
    from pydoc_data.topics import topics

    names = sorted(topics)
    texts = [topics[names[k]] for k in hashed_order("topics", len(names))]
    test, rest = _parted(texts, _TESTED_ON)
    if not share:
        return {"train": _windows(rest), "test": _windows(test)}
    rest = [rest[k] for k in hashed_order(f"validation {seed} ", len(rest))]
    held_out, kept = _parted(rest, share)
    return {"train": _windows(kept), "test": _windows(test), "validation": _windows(held_out)}


def tokens(text: str) -> np.ndarray:
    """int32[characters]: their numbers in ALPHABET.

    >>> tokens("a b").tolist()
    [66, 1, 67]
    """
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    return np.array([numbers.get(each, len(ALPHABET)) for each in text], np.int32)


def _parted(texts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """The first texts, so many that they have this share of the characters, and the others."""
    ends = np.cumsum([len(text) for text in texts])
    count = min(max(1, int(np.searchsorted(ends, share * ends[-1]))), len(texts) - 1)
    return list(texts[:count]), list(texts[count:])


def _windows(texts: Sequence[str]) -> Pairs:
    ids = tokens("\n".join(texts))
    count = (len(ids) - 1) // LENGTH
    inputs, targets = (ids[k : k + count * LENGTH].reshape(count, LENGTH) for k in (0, 1))
    return Pairs(inputs, targets)
