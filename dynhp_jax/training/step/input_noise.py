"""Gaussian noise on the inputs of training.

A number of an example's inputs gets the noise that it would get if no input unit had been cut and
the mini-batch were of another size: draws are numbered by the example's place in the mini-batch
and by the input's number in the whole network.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dynhp_jax.gates import hard_concrete
from dynhp_jax.training.network import Network

Array = jax.Array


def make_perturb(network: Network, deviation: float) -> Callable:
    """How training changes the inputs of a mini-batch.

    Args:
      network: as its arrays are.
      deviation: standard deviation of the noise, in units of the inputs.

    Returns:
      `perturb(images, key, units, first) -> images`: f32[batch, ...]; `units` are the numbers of
      each group's units, as in `state.StepInputs`; `first`, i32[], is the place of the first of
      the examples in the mini-batch.
    """

    def perturb(images: Array, key: Array, units: Mapping[str, Array], first: Array | int) -> Array:
        shape = images.shape
        place = jnp.uint32(first) + jax.lax.broadcasted_iota(jnp.uint32, shape, 0)
        for axis in range(1, len(shape)):
            numbers, of = _numbers(network, axis, shape[axis], units)
            along = numbers.reshape([-1 if each == axis else 1 for each in range(len(shape))])
            place = place * jnp.uint32(of) + along
        noise = normal(hard_concrete.uniform(key, shape, positions=place))
        return images + deviation * noise.astype(images.dtype)

    return perturb


def normal(uniform: Array) -> Array:
    """Standard normal numbers from uniform ones between 0 and 1."""
    return math.sqrt(2) * jax.lax.erf_inv(2 * uniform - 1)


def _numbers(
    network: Network, axis: int, size: int, units: Mapping[str, Array]
) -> tuple[Array, int]:
    """(u32[size], bound): the number that each position of an axis has in the whole network."""
    name = network.input_axes.get(("inputs/0", axis))
    if name is None:
        return jnp.arange(size, dtype=jnp.uint32), size
    index = next(
        member.index
        for member in network.groups[name].members
        if member.path == "inputs/0" and member.axis == axis
    )  # [units, positions of each]
    each = index.shape[1]
    numbers = units[name].astype(jnp.uint32)[:, None] * each + jnp.arange(each, dtype=jnp.uint32)
    return jnp.zeros(size, jnp.uint32).at[index].set(numbers), network.all_units * each
