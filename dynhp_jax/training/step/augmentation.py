"""Training images moved by some pixels and mirrored at random.

A pixel may get its value from another one that has been pruned. So the images stay whole on the
device, and the inputs that the network still has are read from them, at other places for every
example.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.options import Data
from dynhp_jax.gates import hard_concrete
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step.input_noise import normal

Array = jax.Array


def check(config: Config, example_shape: tuple[int, ...]) -> None:
    """That a data set has images that can be moved, if the config asks for it.

    Args:
      config: the run.
      example_shape: of the data set.

    Raises:
      ConfigError: it has not, or they would be moved out of sight.
    """
    if not config.data.augmented:
        return
    field, found = ("data.shift", config.data.shift) if config.data.shift else ("data.flip", True)
    if len(example_shape) < 2:
        allowed = f"no change of examples of shape {example_shape}, which are not images"
        raise ConfigError(field, found, f"{allowed}: [height, width] or [height, width, channels]")
    if config.data.shift >= min(example_shape[:2]):
        allowed = f"less than the {min(example_shape[:2])} pixels of an image's shorter side"
        raise ConfigError(field, found, allowed)


def input_places(whole: Network, keeps: Mapping[str, np.ndarray]) -> np.ndarray:
    """i32[*left]: which of a whole example's numbers, counted row by row, the inputs are.

    Args:
      whole: the network before anything was pruned.
      keeps: which of its units are left, {group: sorted indices}.
    """
    shape = whole.model.example.shape
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(1, *shape)
    return whole.cut_inputs(numbers, keeps)[0]


def make_view(image_shape: tuple[int, ...], data: Data) -> Callable | None:
    """How training sees the examples of a mini-batch; None for as they are.

    Args:
      image_shape: (height, width, ...), of a whole example.
      data: of the config. `shift`, the standard deviation in pixels of the normal numbers that,
        rounded, an image is moved by, down or up and to the right or left; what comes in is 0.
        `flip`, whether every second image or so is mirrored, left to right, before it is moved.

    Returns:
      `view(images, rows, places, key, first) -> f32[batch, *left]`: of images
      f32[examples, ...], whole, the `rows`, i32[batch]; `places`, i32[*left], is what
      `input_places` gives; `first`, i32[], is the place of the first of the rows in the
      mini-batch, so that its parts see what it would.
    """
    if not data.augmented:
        return None
    height, width, *channels = image_shape
    depth = math.prod(channels)

    def view(images: Array, rows: Array, places: Array, key: Array, first: Array | int) -> Array:
        numbers = jnp.uint32(first) + jnp.arange(len(rows), dtype=jnp.uint32)
        positions = 3 * numbers[:, None] + jnp.arange(3, dtype=jnp.uint32)
        uniform = hard_concrete.uniform(key, positions.shape, positions=positions)
        moves = jnp.round(data.shift * normal(uniform[:, :2])).astype(jnp.int32)
        flat = places.reshape(-1)
        y = flat // (width * depth) - moves[:, :1]  # [batch, left]
        x = flat // depth % width - moves[:, 1:]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        if data.flip:
            x = jnp.where(uniform[:, 2:] < 0.5, width - 1 - x, x)
        source = jnp.where(inside, (y * width + x) * depth + flat % depth, 0)
        found = images.reshape(len(images), -1)[rows[:, None], source]
        return jnp.where(inside, found, 0).reshape(len(rows), *places.shape)

    return view
