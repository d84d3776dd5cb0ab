"""A mini-batch spread over several devices, of one process or of several.

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dynhp_jax.common import processes
from dynhp_jax.common.errors import ConfigError

AXIS = "data"


def count(asked: int) -> int:
    """How many devices `config.devices` stands for: those of all processes.

    >>> count(1)
    1

    Args:
      asked: as many of each process, or 0 for all that it has.

    Raises:
      ConfigError: there are fewer.
    """
    return len(chosen(asked))


def chosen(asked: int) -> list[jax.Device]:
    """The same number of every process, process by process; see `count`."""
    there: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        there.setdefault(device.process_index, []).append(device)
    fewest = min(map(len, there.values()))
    if asked > fewest:
        kind = jax.default_backend()
        raise ConfigError("devices", asked, f"0 (all) to {fewest}, the devices here ({kind})")
    if not asked and any(len(each) > fewest for each in there.values()):
        raise ConfigError("devices", asked, f"1 to {fewest}: one of the processes has no more")
    return [device for process in sorted(there) for device in there[process][: asked or fewest]]


def sharding(asked: int, *axes: str) -> NamedSharding | None:
    """Where arrays lie: split along their first axis with AXIS, else whole on every device.

    None for one device, which stands for the default device wherever JAX takes a sharding.
    """
    found = chosen(asked)
    if len(found) == 1:
        return None
    return NamedSharding(Mesh(np.array(found), (AXIS,)), PartitionSpec(*axes))


def anywhere() -> Sharding:
    """Where arrays may lie that `place` has yet to spread: whole, in every process."""
    return SingleDeviceSharding(jax.devices()[0]) if not processes.several() else sharding(0)


def place(tree: Any, asked: int) -> Any:
    """The arrays of a tree on all the devices that a run uses; those that are there stay."""
    where = sharding(asked)
    if not processes.several():
        return jax.device_put(tree, where)
    return jax.tree.map(lambda leaf: _everywhere(leaf, where), tree)


def _everywhere(leaf: Any, where: NamedSharding) -> jax.Array:
    """An array that all processes have, whole on the devices of all.

    `jax.device_put` would have them compare it, by a collective for every array.
    """
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
        return leaf
    return made_at(leaf, where)


def made_at(leaf: Any, where: Sharding) -> jax.Array:
    """An array that all processes have on the host, of which each device gets its part."""
    return _made(
        leaf,
        lambda array: jax.make_array_from_callback(array.shape, where, lambda index: array[index]),
    )


def local(tree: Any) -> Any:
    """The arrays of a tree where this process alone can compute with them."""
    if not processes.several():
        return tree
    return jax.tree.map(lambda leaf: _made(leaf, jax.device_put), tree)


def _made(leaf: Any, make: Callable[[np.ndarray], jax.Array]) -> jax.Array:
    """An array made of what this process has of another, which may hold keys."""
    if not is_key(leaf):
        return make(np.asarray(leaf))
    words = make(np.asarray(jax.random.key_data(leaf)))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys, which NumPy knows nothing of."""
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


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
