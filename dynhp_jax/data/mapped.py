"""A source of examples that a function changes when they are read."""

from collections.abc import Callable
from typing import Any


class Mapped:
    """A source of random access whose every example a function has changed.

    Args:
      source: has `__len__` and `__getitem__`.
      function: from an example of the source to another one, such as a pair (inputs, targets).

    >>> squares = Mapped(range(4), lambda number: (number, number**2))
    >>> len(squares), squares[3]
    (4, (3, 9))
    """

    def __init__(self, source: Any, function: Callable[[Any], Any]):
        self.source, self.function = source, function

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.source[index])

    def __getitems__(self, indices: list[int]) -> list[Any]:
        several = getattr(self.source, "__getitems__", None)
        found = several(indices) if several else [self.source[index] for index in indices]
        return [self.function(example) for example in found]
