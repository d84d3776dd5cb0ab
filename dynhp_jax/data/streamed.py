"""Examples that are read when they are needed: for data that are larger than the memory.

There are two kinds. A source of random access has `__len__` and `__getitem__`; grain's and
tensorflow-datasets' data sources and PyTorch's map-style datasets have them. An epoch reads its
examples in the order in which it would take those of arrays, so that the run is the same, bit for
bit, and goes on where it stopped. An iterable of batches is read from its beginning in every epoch,
in its own order.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.fields import LARGEST_WHOLE
from dynhp_jax.common.own_code import guarded
from dynhp_jax.data.pairs import Pairs, as_array, kind_of, pairs_of

_CHUNK_BYTES = 64 * 2**20  # that are read at once where a whole split is read


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(abc.ABC):
    """Examples that no array holds.

    Attributes:
      name: of the split, for messages.
      source: what a person gave.
      example: shapes and types of one.
      count: how many there are.
    """

    name: str
    source: Any
    example: Pairs
    count: int

    in_turn = False  # whether they only come in the order of the source

    def __len__(self) -> int:
        return self.count

    @abc.abstractmethod
    def chunks(self, order: np.ndarray | None, size: int) -> Iterator[Pairs]:
        """Arrays of `size` examples each; the last ones may be fewer.

        Args:
          order: which examples, and in which order; None for all, in turn.
          size: examples that are in memory at once.

        Raises:
          UserError: an example cannot be read, or is not of the shape of the others; the message
            has its number, counted from 0.
        """

    def first(self, count: int) -> Pairs:
        """The first so many."""
        return next(self.chunks(np.arange(min(count, self.count)), max(count, 1)))

    def limited(self, count: int) -> "Streamed":
        """The first so many, which are still not read."""
        return dataclasses.replace(self, count=min(count, self.count))

    def whole(self) -> Pairs:
        """All, read at once."""
        return gathered(self.chunks, self.example, self.count)

    def sample(self) -> Pairs:
        """A few, by which two sources are told apart."""
        return self.first(64)


class RandomAccess(Streamed):
    """A source with `__len__` and `__getitem__`."""

    def chunks(self, order: np.ndarray | None, size: int) -> Iterator[Pairs]:
        order = np.arange(self.count) if order is None else order
        for start in range(0, len(order), size):
            rows = order[start : start + size].tolist()
            chunk = empty(self.example, len(rows))
            for place, (row, found) in enumerate(zip(rows, self._read(rows), strict=True)):
                whose = f"example {row} of {self.name}"
                _put_one(chunk, place, pair_of(whose, self.source, found), whose)
            yield chunk

    def _read(self, rows: list[int]) -> Iterator[Any]:
        several = getattr(self.source, "__getitems__", None)
        if several is not None:
            try:
                found = list(several(rows))
            except Exception:
                found = []  # one by one they tell which of them it is
            if len(found) == len(rows):
                yield from found
                return
        for row in rows:
            yield item(self.name, self.source, row)

    def sample(self) -> Pairs:
        spread = np.linspace(0, self.count - 1, min(self.count, 64)).astype(np.int64)
        return next(self.chunks(spread, len(spread)))


class Batches(Streamed):
    """An iterable of batches, which begins anew whenever it is iterated over."""

    in_turn = True

    def begin(self, epoch: int) -> None:
        """Tells a source that has `set_epoch`, as those have that shuffle, which epoch begins."""
        told = getattr(self.source, "set_epoch", None)
        if told is not None:
            with guarded(f"{self.name}.set_epoch"):
                told(int(epoch))

    def chunks(self, order: np.ndarray | None, size: int) -> Iterator[Pairs]:
        missing = self.count if order is None else len(order)
        batches, batch = batches_of(self.name, self.source, self.example), None
        seen = 0
        while missing:
            chunk = empty(self.example, min(size, missing))
            filled = 0
            while filled < len(chunk):
                if batch is None or not len(batch):
                    batch = next(batches, None)
                    if batch is None:
                        raise UserError(
                            f"{self.name} ended after {seen + filled:,} of {self.count:,} examples;"
                            " allowed: as many in every epoch"
                        )
                part = batch.first(len(chunk) - filled)
                put(chunk, filled, part)
                filled += len(part)
                batch = batch.map(functools.partial(_without_first, len(part)))
            seen, missing = seen + filled, missing - filled
            yield chunk


def streamed(name: str, given: Any) -> Streamed | None:
    """Examples from what a person gave, if it is no pair of arrays.

    Args:
      name: of the split.
      given: a source of random access, or an iterable of batches.

    Returns:
      The examples, none of which but the first is read; None where `given` is neither of the two.

    Raises:
      UserError: it is an iterator, which can be read but once, or has no example, or one that is
        no pair (inputs, targets).
    """
    if isinstance(given, (tuple, list, Mapping, str, bytes)) or hasattr(given, "dtype"):
        return None
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _random_access(name, given)
    if not hasattr(given, "__iter__"):
        return None
    if iter(given) is given:
        raise UserError(
            f"{name} is a {type(given).__name__}, which can be read but once; allowed: an iterable"
            " of batches that begins anew for every epoch, a source with __len__ and __getitem__,"
            " or (inputs, targets)"
        )
    return _batches(name, given)


def _random_access(name: str, given: Any) -> RandomAccess:
    with guarded(name):
        count = len(given)
    if not 1 <= count <= LARGEST_WHOLE:
        raise UserError(f"{name} has {count:,} examples; allowed: 1 to {LARGEST_WHOLE:,}")
    whose = f"example 0 of {name}"
    pair = pair_of(whose, given, item(name, given, 0))
    with_axis = jax.tree.map(lambda leaf: as_array(leaf)[None], pair)
    return RandomAccess(name, given, pairs_of(whose, with_axis).example, count)


def _batches(name: str, given: Any) -> Batches:
    batches = batches_of(name, given)
    first = next(batches, None)
    if first is None:
        raise UserError(f"{name} gives no batch; allowed: at least one (inputs, targets)")
    count = getattr(given, "examples", None)
    if count is None:
        counting = f"counting the examples of {name}"
        count = sum(map(len, tqdm(batches, counting, leave=False, disable=None)), len(first))
    if not isinstance(count, int) or not 1 <= count <= LARGEST_WHOLE:
        raise UserError(f"{name}.examples is {count!r}; allowed: 1 to {LARGEST_WHOLE:,}")
    return Batches(name, given, first.example, count)


def batches_of(name: str, source: Any, example: Pairs | None = None) -> Iterator[Pairs]:
    """The batches of one pass, which have to be of examples like this one, or like the first."""
    number, batches = 0, None
    while True:
        whose = f"batch {number} of {name}"
        with guarded(whose):
            batches = iter(source) if batches is None else batches
            found = next(batches, None)
        if found is None:
            return
        batch = pairs_of(whose, pair_of(whose, source, found))
        example = batch.example if example is None else example
        if kind_of(batch.example) != kind_of(example):
            raise UserError(
                f"{whose} is of examples {kind_of(batch.example)}, the first one of"
                f" {kind_of(example)}; bring all to one shape and type"
            )
        yield batch
        number += 1


def item(name: str, source: Any, row: int) -> Any:
    """An example of a source of random access.

    Raises:
      OwnCodeError: the source raises something.
    """
    with guarded(f"example {row} of {name}"):
        return source[row]


def pair_of(whose: str, source: Any, found: Any) -> tuple[Any, Any]:
    """An example, or a batch, as (inputs, targets).

    Args:
      whose: for messages.
      source: a data source of tensorflow-datasets knows which of its features are which.
      found: of the source.

    Raises:
      UserError: it is no pair.
    """
    if isinstance(found, Mapping):
        keys = getattr(getattr(source, "dataset_info", None), "supervised_keys", None)
        if keys is not None and len(keys) == 2 and all(key in found for key in keys):
            return found[keys[0]], found[keys[1]]
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise UserError(
            f"{whose} is a {type(found).__name__}; allowed: (inputs, targets); for a source of"
            " other examples give dp.Mapped(source, function) with a function that makes the pair"
        )
    return tuple(found)


def gathered(chunks: Callable, example: Pairs, count: int) -> Pairs:
    """All examples in arrays, from a function like `Streamed.chunks`; `example` is one of them."""
    found, filled = empty(example, count), 0
    size = max(1, _CHUNK_BYTES // max(array_bytes(example.inputs), 1))
    for chunk in chunks(None, size):
        put(found, filled, chunk)
        filled += len(chunk)
    return found


def empty(example: Pairs, count: int) -> Pairs:
    """Arrays for so many examples."""
    return example.map(lambda leaf: np.empty((count, *leaf.shape), leaf.dtype))


def put(into: Pairs, start: int, chunk: Pairs) -> None:
    """Writes a chunk's examples into the rows from `start` on."""
    for array, leaf in zip(into.leaves, chunk.leaves, strict=True):
        array[start : start + len(leaf)] = leaf


def _put_one(into: Pairs, place: int, pair: tuple[Any, Any], whose: str) -> None:
    leaves, tree = jax.tree.flatten(pair)
    arrays = into.leaves
    fits = tree == jax.tree.structure((into.inputs, into.targets))
    leaves = [np.asarray(leaf) for leaf in leaves]
    if not fits or any(
        leaf.shape != array.shape[1:] or not np.can_cast(leaf.dtype, array.dtype, "same_kind")
        for leaf, array in zip(leaves, arrays, strict=True)
    ):
        found = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
        raise UserError(
            f"{whose} is {found}, the first one is {kind_of(into.example)}; bring all to one shape"
            " and type"
        )
    for array, leaf in zip(arrays, leaves, strict=True):
        array[place] = leaf


def _without_first(count: int, leaf: np.ndarray) -> np.ndarray:
    return leaf[count:]
