"""How an array is split among devices once it has lost positions."""

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def evenly(where: NamedSharding, before: tuple[int, ...], after: tuple[int, ...]) -> NamedSharding:
    """The sharding for an array of another shape; parts of an axis have to be equal.

    Args:
      where: the sharding now.
      before: the shape that it splits.
      after: the shape to be split; an axis that its devices do not divide is whole on each.
    """
    if not any(where.spec):  # whole, or inside shard_map, where there are no parts to count
        return where
    parts = np.floor_divide(before, where.shard_shape(before))
    named = [
        names if size % part == 0 else None
        for names, size, part in zip(where.spec, after, parts, strict=False)
    ]
    return where.update(spec=PartitionSpec(*named))
