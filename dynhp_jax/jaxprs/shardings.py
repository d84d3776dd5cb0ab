"""How arrays are split among devices where positions are cut, and where a transform adds numbers.

Axes of a mesh may be XLA's to split (auto), a `shard_map`'s (manual), or part of the types of
arrays (explicit): there equations do not take arrays that are split otherwise than the others.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AxisType,
    NamedSharding,
    PartitionSpec,
    auto_axes,
    get_abstract_mesh,
    reshard,
    use_abstract_mesh,
)


def explicit(where: NamedSharding) -> bool:
    """Whether axes of the mesh are part of the types of arrays."""
    return AxisType.Explicit in where.mesh.axis_types


def evenly(where: NamedSharding, before: tuple[int, ...], after: tuple[int, ...]) -> NamedSharding:
    """The sharding for an array of another shape, in which the parts of every axis are equal.

    Args:
      where: the sharding now.
      before: the shape that it splits; parts that were not equal (of a constraint) may stay so.
      after: the shape to be split; an axis that its devices do not divide is whole on each.
    """
    spec = where.spec
    # A spec may be shorter than the shape.
    named = [
        names if old % _parts(where, names) or new % _parts(where, names) == 0 else None
        for names, old, new in zip(spec.partitions, before, after, strict=False)
    ]
    if named == list(spec.partitions):
        return where
    return where.update(spec=PartitionSpec(*named, unreduced=spec.unreduced, reduced=spec.reduced))


def _parts(where: NamedSharding, names: Any) -> int:
    """Of an axis, by what a spec holds for it: one name, several, None or UNCONSTRAINED."""
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(where.mesh.shape[name] for name in names if isinstance(name, str))


def take(array: Any, positions: np.ndarray, axis: int) -> Any:
    """`jnp.take`, of an array that is split by its type, too."""
    where = jax.typeof(array).sharding
    if not any(where.spec.partitions):
        return jnp.take(array, positions, axis=axis)
    shape = (*array.shape[:axis], positions.size, *array.shape[axis + 1 :])
    index = (slice(None),) * axis + (positions,)
    return array.at[index].get(out_sharding=evenly(where, array.shape, shape))


def split_as(where: NamedSharding, function: Callable, *args: Any) -> Any:
    """`function(*args)`, split as `where`; how to split the work is left to XLA."""
    if explicit(where):
        with use_abstract_mesh(where.mesh):
            return auto_axes(function, out_sharding=where)(*args)
    return function(*jax.tree.map(_as_around, args))


def _as_around(array: Any) -> Any:
    """An array as equations take it that a model has left to XLA (`auto_axes`)."""
    mesh, where = get_abstract_mesh(), jax.typeof(array).sharding
    if mesh.empty or mesh == where.mesh or not explicit(where):
        return array
    return reshard(array, NamedSharding(mesh, PartitionSpec()))
