"""A data set for any task: arrays, or sources of examples that are read when they are needed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import Pairs, kind_of, pairs_of
from dynhp_jax.data.streamed import Streamed, streamed


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """A data set for any task.

    Attributes:
      splits: 'train', 'test', maybe 'validation'.
      name: for reports.
      outputs: of a network for it, for every example or every position of one; 0 if nobody says.
    """

    splits: Mapping[str, Pairs | Streamed]
    name: str = "own"
    outputs: int = 0
    num_classes = 0  # no confusion matrix is counted

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Of images; () where the inputs are not one array."""
        return getattr(self.splits["train"].example.inputs, "shape", ())


def own_data(train: Any, test: Any, validation: Any = None, resident: int = 2**31) -> TaskData:
    """A data set from what a person gives.

    Args:
      train, test, validation: (inputs, targets), arrays or pytrees of arrays; a source of random
        access; or an iterable of batches; see `streamed.streamed`. None for no validation.
      resident: bytes; a source whose inputs take no more is read here, and is arrays from then on.

    Raises:
      UserError: it is none of these, or the examples of two splits differ in shape or type.
    """
    given = {"train": train, "test": test} | (
        {} if validation is None else {"validation": validation}
    )
    splits = {name: _opened(name, each, resident) for name, each in given.items()}
    kinds = {name: kind_of(each.example) for name, each in splits.items()}
    for name, kind in kinds.items():
        if kind != kinds["train"]:
            raise UserError(
                f"an example of {name} is {kind}, one of train is {kinds['train']}; bring all to"
                " one shape and type"
            )
    return TaskData(splits)


def _opened(name: str, given: Any, resident: int) -> Pairs | Streamed:
    found = streamed(name, given)
    if found is None:
        return pairs_of(name, given)
    fits = len(found) * array_bytes(found.example.inputs) <= resident
    return found.whole() if fits else found
