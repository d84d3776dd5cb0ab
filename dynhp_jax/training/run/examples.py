"""The examples of a run, as its network reads them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.data.loading import Dataset
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import streaming


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples, of the input units that the arrays of the network still have.

    On every device of the run, or on the host (NumPy) if they are too large for that: `streaming`.
    Those of training are whole where it moves them about: `augmentation`.
    """

    images: jax.Array | np.ndarray  # f32[examples, ...]
    labels: jax.Array | np.ndarray  # i32[examples]


def cut(
    config: Config,
    dataset: Dataset,
    whole: Network,
    keeps: Mapping[str, np.ndarray],
    place: Callable[[Any], Any],
) -> dict[str, Split]:
    """All splits of a data set for a network of some of the units.

    Args:
      config: the run.
      dataset: its data.
      whole: the network before anything was pruned.
      keeps: which of its units are left, {group: sorted indices}.
      place: sends arrays to where the run computes.

    Returns:
      'train', 'test' and, if some of it is held out, 'validation'.
    """
    arrays = {
        "train": (dataset.x_train, dataset.y_train),
        "test": (dataset.x_test, dataset.y_test),
        "validation": (dataset.x_validation, dataset.y_validation),
    }

    def ready(name: str, images: np.ndarray, labels: np.ndarray) -> Split:
        inputs = images.reshape(len(images), *whole.spec.input_shape)  # flat for the MLP
        if name != "train" or not config.data.augmented:
            inputs = whole.cut_inputs(inputs, keeps)
        if streaming.streams(config, len(inputs), inputs.shape[1:]):
            return Split(inputs, labels)
        return Split(*place((jnp.asarray(inputs), jnp.asarray(labels))))

    return {name: ready(name, *pair) for name, pair in arrays.items() if len(pair[1])}
