"""The examples of a run, as its network reads them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.data.pairs import Pairs
from dynhp_jax.data.streamed import Streamed, empty, gathered
from dynhp_jax.training import first_look
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.step import streaming


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Pairs):
    """Examples, of the input units that the arrays of the network still have.

    On every device of the run, or on the host (NumPy) if they are too large for that: `streaming`.
    Those of training are whole where it moves them about: `augmentation`.
    """

    @property
    def resident(self) -> bool:
        """Whether they are on the device."""
        return isinstance(jax.tree.leaves(self.inputs)[0], jax.Array)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Examples that are read when they are needed, and made ready for the network then.

    Attributes:
      source: of them.
      prepared: from examples as they are to those that the network reads.
      check: called with the targets and the numbers of the examples that were read.
    """

    source: Streamed
    prepared: Callable[[Pairs], Pairs]
    check: Callable[[Any, np.ndarray], None]

    resident = False

    def __len__(self) -> int:
        return len(self.source)

    @property
    def example(self) -> Pairs:
        """Shapes and types of one, as the network reads it."""
        return self.prepared(empty(self.source.example, 1)).example

    def chunks(self, order: np.ndarray | None, size: int) -> Iterator[Pairs]:
        """See `Streamed.chunks`."""
        rows = np.arange(len(self)) if order is None or self.source.in_turn else order
        for number, chunk in enumerate(self.source.chunks(order, size)):
            self.check(chunk.targets, rows[number * size : (number + 1) * size])
            yield self.prepared(chunk)


def checked_labels(name: str, whole: Network) -> Callable[[Any, np.ndarray], None]:
    """What looks at targets of a split when they are read; see `first_look.check_labels`."""
    shapes = whole.model.shapes(), batch_of(whole.model.example, 2)
    outputs = jax.eval_shape(whole.evaluate, *shapes)

    def check(targets: Any, rows: np.ndarray) -> None:
        first_look.check_labels(whole.task, outputs, name, targets, rows)

    return check


def cut(
    config: Config,
    splits: Mapping[str, Pairs | Streamed],
    whole: Network,
    keeps: Mapping[str, np.ndarray],
    place: Callable[[Any], Any],
) -> dict[str, Split | StreamedSplit]:
    """All splits of a data set for a network of some of the units.

    Args:
      config: the run.
      splits: of the data set: 'train', 'test' and maybe 'validation'.
      whole: the network before anything was pruned.
      keeps: which of its units are left, {group: sorted indices}.
      place: sends arrays to where the run computes.
    """

    def ready(name: str, pairs: Pairs | Streamed) -> Split | StreamedSplit:
        def prepared(pairs: Pairs) -> Pairs:
            pairs = fitted(pairs, whole)
            if name == "train" and config.data.augmented:
                return pairs
            return dataclasses.replace(pairs, inputs=whole.cut_inputs(pairs.inputs, keeps))

        if isinstance(pairs, Streamed):
            split = StreamedSplit(pairs, prepared, checked_labels(name, whole))
            if streaming.streams(config, len(pairs), split.example.inputs):
                return split
            pairs = gathered(split.chunks, split.example, len(pairs))
        else:
            pairs = prepared(pairs)
            if streaming.streams(config, len(pairs), pairs.example.inputs):
                return Split(pairs.inputs, pairs.targets)
        return Split(*place(jax.tree.map(jnp.asarray, (pairs.inputs, pairs.targets))))

    return {name: ready(name, pairs) for name, pairs in splits.items() if len(pairs)}


def fitted(pairs: Pairs, whole: Network) -> Pairs:
    """The same with every example in the shape that the model reads: flat for the MLP."""
    inputs = jax.tree.map(
        lambda leaf, one: leaf.reshape(len(leaf), *one.shape), pairs.inputs, whole.model.example
    )
    return dataclasses.replace(pairs, inputs=inputs)
