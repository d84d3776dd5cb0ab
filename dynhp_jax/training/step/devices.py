"""A mini-batch spread over several devices of one machine.

Parameters, optimizer state, gates and data are on every device; the examples of a mini-batch, and
what is drawn or probed for each of them, are split among the devices. That is said by sharding
constraints at the few places where a mini-batch comes to be; XLA's partitioner finds out the rest,
above all where sums over examples have to be added up among devices. On one device none of this is
in a program.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dynhp_jax.common.errors import ConfigError

AXIS = "data"


def count(asked: int) -> int:
    """How many devices `config.devices` stands for.

    >>> count(1)
    1

    Args:
      asked: as many, or 0 for all that there are.

    Raises:
      ConfigError: there are fewer.
    """
    there = len(jax.devices())
    if asked > there:
        kind = jax.default_backend()
        raise ConfigError("devices", asked, f"0 (all) to {there}, the devices here ({kind})")
    return asked or there


def sharding(asked: int, *axes: str) -> NamedSharding | None:
    """Where arrays lie: split along their first axis with AXIS, else whole on every device.

    None for one device, which stands for the default device wherever JAX takes a sharding.
    """
    number = count(asked)
    if number == 1:
        return None
    mesh = Mesh(np.array(jax.devices()[:number]), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(*axes))


def place(tree: Any, asked: int) -> Any:
    """The arrays of a tree on all the devices that a run uses; those that are there stay."""
    return jax.device_put(tree, sharding(asked))


def spreading(asked: int) -> Callable:
    """`spread(tree) -> tree`, inside a program: arrays split along their first axis.

    Args:
      asked: `config.devices`; a whole number of rows goes to each. With one device the function
        returns the very same tree.
    """
    split = sharding(asked, AXIS)

    def spread(tree: Any) -> Any:
        if split is None:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, split), tree)

    return spread


def jitted(function: Callable, asked: int, donate_argnums: tuple[int, ...] = ()) -> Callable:
    """`jax.jit` of a function whose arguments and results are whole on every device."""
    whole = sharding(asked)
    if whole is None:
        return jax.jit(function, donate_argnums=donate_argnums)
    return jax.jit(function, donate_argnums=donate_argnums, in_shardings=whole, out_shardings=whole)
