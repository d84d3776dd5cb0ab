"""The examples of a run, as its network reads them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.data.pairs import Pairs
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
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


def cut(
    config: Config,
    splits: Mapping[str, Pairs],
    whole: Network,
    keeps: Mapping[str, np.ndarray],
    place: Callable[[Any], Any],
) -> dict[str, Split]:
    """All splits of a data set for a network of some of the units.

    Args:
      config: the run.
      splits: of the data set: 'train', 'test' and maybe 'validation'.
      whole: the network before anything was pruned.
      keeps: which of its units are left, {group: sorted indices}.
      place: sends arrays to where the run computes.
    """

    def ready(name: str, pairs: Pairs) -> Split:
        pairs = fitted(pairs, whole)
        if name != "train" or not config.data.augmented:
            inputs = whole.cut_inputs(pairs.inputs, keeps)
            pairs = dataclasses.replace(pairs, inputs=inputs)
        example = jax.tree.map(lambda leaf: leaf[0], pairs.inputs)
        if streaming.streams(config, len(pairs), example):
            return Split(pairs.inputs, pairs.targets)
        return Split(*place(jax.tree.map(jnp.asarray, (pairs.inputs, pairs.targets))))

    return {name: ready(name, pairs) for name, pairs in splits.items() if len(pairs)}


def fitted(pairs: Pairs, whole: Network) -> Pairs:
    """The same with every example in the shape that the model reads: flat for the MLP."""
    inputs = jax.tree.map(
        lambda leaf, one: leaf.reshape(len(leaf), *one.shape), pairs.inputs, whole.model.example
    )
    return dataclasses.replace(pairs, inputs=inputs)
