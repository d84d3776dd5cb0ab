"""On which devices the nodes are, of this process or of several, and which of them it has here.

Every device has the same number of nodes, one block after the other. No device ever has them all.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from dynhp_jax.common import processes
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.training.step import devices as of_batches

AXIS = "nodes"


def check_devices(asked: int, nodes: int) -> int:
    """How many devices the nodes are divided among, in all processes.

    Args:
      asked: as many of each process, or 0 for all that it has.
      nodes: how many.

    Raises:
      UserError: there are fewer, or the nodes cannot be divided evenly.
    """
    try:
        found = of_batches.count(asked)
    except ConfigError:
        found = 0
    if found < 1 or nodes % found:
        several = f" in {jax.process_count()} processes" if processes.several() else ""
        raise UserError(
            f"devices is {asked} for {nodes} nodes{several}; allowed: a divisor of {nodes}, at most"
            f" {len(jax.devices())} in all, or 0 for all, the devices here"
            f" ({jax.default_backend()})"
        )
    return found


def mesh_of(devices: int) -> Mesh:
    """So many devices in all, the same number of every process, process by process."""
    each = devices // (jax.process_count() if processes.several() else 1)
    return Mesh(np.array(of_batches.chosen(each)), AXIS)


def placed(tree: Any, devices: int, divided: bool) -> Any:
    """Arrays that every process has on the host, on the devices.

    Args:
      tree: of arrays.
      devices: how many.
      divided: whether a device gets its part of their first axis, the nodes; else all of it.
    """
    if devices == 1:
        return jax.tree.map(jnp.asarray, tree)
    where = sharding(devices, divided)
    return jax.tree.map(lambda leaf: of_batches.made_at(leaf, where), tree)


def sharding(devices: int, divided: bool) -> Sharding | None:
    """See `placed`; None for one device."""
    if devices == 1:
        return None
    return NamedSharding(mesh_of(devices), PartitionSpec(AXIS) if divided else PartitionSpec())


def here(nodes: int, devices: int) -> np.ndarray:
    """The numbers of the nodes that this process has, i64[nodes here]."""
    numbers = np.arange(nodes)
    if not processes.several():
        return numbers
    mine = [device.process_index == jax.process_index() for device in mesh_of(devices).devices]
    return numbers.reshape(devices, -1)[mine].reshape(-1)


def of_here(tree: Any) -> Any:
    """Arrays [nodes, ...] as this process has them: of its nodes alone where there are several."""
    if not processes.several():
        return tree

    def own(leaf: jax.Array) -> np.ndarray:
        blocks = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in blocks])

    return jax.tree.map(own, tree)
