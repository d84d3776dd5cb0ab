"""Examples as pairs of inputs and targets: pytrees of NumPy arrays with a leading axis."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Some examples.

    Attributes:
      inputs, targets: pytrees of arrays [examples, ...].
    """

    inputs: Any
    targets: Any

    in_turn = False  # `chunks` takes them in any order

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.targets)[0])

    @property
    def leaves(self) -> list[Any]:
        """All arrays."""
        return jax.tree.leaves((self.inputs, self.targets))

    @property
    def example(self) -> "Pairs":
        """Shapes and types of one example."""
        return Pairs(example_of(self.inputs), example_of(self.targets))

    def first(self, count: int) -> "Pairs":
        """The first so many."""
        return self.map(lambda leaf: leaf[:count])

    def limited(self, count: int) -> "Pairs":
        """The first so many; see `streamed.Streamed.limited`."""
        return self.first(count)

    def sample(self) -> "Pairs":
        """All; see `streamed.Streamed.sample`."""
        return self

    def chunks(self, order: np.ndarray | None, size: int) -> Iterator["Pairs"]:
        """Arrays of `size` examples each; the last ones may be fewer.

        Args:
          order: which examples, and in which order; None for all, in turn.
          size: how many at once.
        """
        for start in range(0, len(self) if order is None else len(order), size):
            rows = slice(start, start + size)
            rows = rows if order is None else order[rows]
            yield self.map(lambda leaf, rows=rows: leaf[rows])

    def map(self, function: Callable) -> "Pairs":
        """Pairs with a function applied to every array."""
        return Pairs(jax.tree.map(function, self.inputs), jax.tree.map(function, self.targets))


def example_of(batch: Any) -> Any:
    """Shapes and types of one example, from arrays [examples, ...]."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            np.shape(leaf)[1:], jax.dtypes.canonicalize_dtype(leaf.dtype)
        ),
        batch,
    )


def pairs_of(name: str, given: Any) -> Pairs:
    """Examples that a person gives, as arrays of the types that are trained on.

    Args:
      name: of the split, for messages.
      given: (inputs, targets), each an array or a pytree of arrays.

    Raises:
      UserError: it is no such pair, arrays have not all the same number of examples, or there is
        none.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise UserError(
            f"{name} is a {type(given).__name__}; allowed: (inputs, targets), arrays or pytrees of"
            " arrays [examples, ...]; a source with __len__ and __getitem__ of such pairs; or an"
            " iterable of batches"
        )
    try:
        inputs, targets = (jax.tree.map(as_array, each) for each in given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} holds what is no array of numbers ({error})") from None
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves((inputs, targets))}
    both = all(jax.tree.leaves(each) for each in (inputs, targets))
    if not both or len(counts) != 1 or not all(count and count[0] for count in counts):
        found = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves((inputs, targets)))
        raise UserError(
            f"{name} has arrays of shapes {found or 'none'}; allowed: at least one example, and as"
            " many targets as inputs: [examples, ...] each"
        )
    return Pairs(inputs, targets)


def as_array(leaf: Any) -> np.ndarray:
    """Numbers as an array of the type that is trained on.

    Raises:
      TypeError: they are no numbers.
    """
    array = np.asarray(leaf)
    if (
        array.dtype.kind not in "biufV"
        or array.dtype.kind == "V"
        and array.dtype.name != "bfloat16"
    ):
        raise TypeError(f"of type {array.dtype}")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def kind_of(example: Pairs) -> str:
    """Structure, shapes and types of an example, as text."""
    leaves, tree = jax.tree.flatten((example.inputs, example.targets))
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    return f"{shapes} in {tree}" if tree.num_leaves > 2 else shapes
