"""Examples as pairs of inputs and targets: pytrees of NumPy arrays with a leading axis."""

import dataclasses
from collections.abc import Callable, Mapping
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

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.targets)[0])

    def first(self, count: int) -> "Pairs":
        """The first so many."""
        return self.map(lambda leaf: leaf[:count])

    def map(self, function: Callable) -> "Pairs":
        """Pairs with a function applied to every array."""
        return Pairs(jax.tree.map(function, self.inputs), jax.tree.map(function, self.targets))


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayData:
    """A data set of one's own arrays.

    Attributes:
      splits: 'train', 'test', maybe 'validation'.
      name: for reports.
    """

    splits: Mapping[str, Pairs]
    name: str = "own"
    num_classes = 0  # nobody says; no confusion matrix is counted

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Of images; () where the inputs are not one array."""
        inputs = self.splits["train"].inputs
        return np.shape(inputs)[1:] if hasattr(inputs, "shape") else ()


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
            " arrays [examples, ...]"
        )
    try:
        inputs, targets = (jax.tree.map(_array, each) for each in given)
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


def array_data(train: Any, test: Any, validation: Any = None) -> ArrayData:
    """A data set from pairs (inputs, targets).

    Args:
      train, test, validation: see `pairs_of`; None for no validation.

    Raises:
      UserError: as `pairs_of`; or the examples of two splits differ in shape or type.
    """
    given = {"train": train, "test": test} | (
        {} if validation is None else {"validation": validation}
    )
    splits = {name: pairs_of(name, each) for name, each in given.items()}
    kinds = {name: _kind(each) for name, each in splits.items()}
    for name, kind in kinds.items():
        if kind != kinds["train"]:
            raise UserError(
                f"an example of {name} is {kind}, one of train is {kinds['train']}; bring all to"
                " one shape and type"
            )
    return ArrayData(splits)


def _array(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if (
        array.dtype.kind not in "biufV"
        or array.dtype.kind == "V"
        and array.dtype.name != "bfloat16"
    ):
        raise TypeError(f"of type {array.dtype}")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _kind(pairs: Pairs) -> str:
    """Structure, shapes and types of an example, as text."""
    leaves, tree = jax.tree.flatten((pairs.inputs, pairs.targets))
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in leaves)
    return f"{shapes} in {tree}" if tree.num_leaves > 2 else shapes
