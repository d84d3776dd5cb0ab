"""Data sets for other tasks than the classes of images; they come with Python or scikit-learn."""

import dataclasses
from collections.abc import Callable

from dynhp_jax.data.diabetes import diabetes
from dynhp_jax.data.digits import SEGMENTS, scenes, segments
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.python_topics import CHARACTERS, python_topics
from dynhp_jax.data.task_data import TaskData


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A data set that needs no download.

    Attributes:
      read: `read(share, seed)`, the splits by name, with that share of the training set held out.
      outputs: of a network for it, for every example or every position of one.
    """

    read: Callable[[float, int], dict[str, Pairs]]
    outputs: int

    def load(self, name: str, validation: float = 0.0, seed: int = 0) -> TaskData:
        """The data set of this name; see `loading.load`."""
        return TaskData(self.read(validation, seed), name, self.outputs)


# A new data set of this kind: a function that reads it, and its line here.
SHIPPED: dict[str, Shipped] = {
    "diabetes": Shipped(diabetes, 1),
    "digit_segments": Shipped(segments, SEGMENTS.shape[1]),
    "digit_scenes": Shipped(scenes, 11),
    "python_topics": Shipped(python_topics, CHARACTERS),
}
