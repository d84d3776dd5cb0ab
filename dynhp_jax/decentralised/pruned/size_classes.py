"""Nodes of about the same size as one stack, so that their work falls with their size.

Widths are rounded up to a grid, and the places beyond a node's own units hold dead ones: zeros
whose gates are shut. So one program serves all nodes of a class, whichever units they keep.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import UnitKeeps

Alive = Mapping[str, np.ndarray]  # {group: bool[nodes, units]}


@dataclasses.dataclass(frozen=True)
class SizeClass:
    """Nodes that are computed together.

    Attributes:
      nodes: their numbers.
      widths: (group, units) that their arrays have, of every group.
      batch: their mini-batch.
    """

    nodes: tuple[int, ...]
    widths: tuple[tuple[str, int], ...]
    batch: int


def size_classes(
    groups: Groups, alive: Alive, batches: Sequence[int], most: int, steps: int = 8
) -> list[SizeClass]:
    """The classes of all nodes.

    Args:
      groups: of the whole network.
      alive: which units each node has.
      batches: the mini-batch of each.
      most: classes of the same mini-batch, at most; 0: all nodes in whole arrays (masked), so that
        nothing that is pruned saves any work.
      steps: widths of the grid, from nothing to the whole.
    """
    found: dict[tuple, list[int]] = {}
    for node, batch in enumerate(batches):
        widths = tuple(
            (name, _rounded(int(mask[node].sum()), groups[name], steps) if most else mask.shape[1])
            for name, mask in alive.items()
        )
        found.setdefault((batch, widths), []).append(node)
    classes = []
    for batch in sorted({batch for batch, _ in found}):
        mine = sorted(
            ((dict(widths), nodes) for (of, widths), nodes in found.items() if of == batch),
            key=lambda each: sum(each[0].values()),
        )
        while len(mine) > max(1, most):
            mine = _merged(mine)
        classes += [SizeClass(tuple(sorted(nodes)), tuple(sorted(widths.items())), batch)
                    for widths, nodes in mine]  # fmt: skip
    return classes


def units_in_class(groups: Groups, alive: Alive, of: SizeClass) -> list[UnitKeeps]:
    """Of each node of a class the units that its arrays have: its own, and dead ones beside."""
    found = []
    for node in of.nodes:
        keeps = {}
        for name, width in of.widths:
            blocks = groups[name].blocks
            mask = np.asarray(alive[name][node], bool).reshape(blocks, -1)
            order = np.argsort(~mask, axis=1, kind="stable")[:, : width // blocks]
            places = order + np.arange(blocks)[:, None] * mask.shape[1]
            keeps[name] = np.sort(places.reshape(-1))
        found.append(UnitKeeps(keeps, groups))
    return found


def _rounded(width: int, group: object, steps: int) -> int:
    """The next width of the grid, as many units of every block."""
    step = max(1, math.ceil(group.size / group.blocks / steps)) * group.blocks
    return min(group.size, -(-width // step) * step)


def _merged(classes: list) -> list:
    """One class fewer: the two neighbours that are nearest in size become one that holds both."""
    sizes = [sum(widths.values()) for widths, _ in classes]
    gaps = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    at = int(np.argmin(gaps))
    (small, some), (large, others) = classes[at : at + 2]
    both = {name: max(small[name], large[name]) for name in large}
    return [*classes[:at], (both, some + others), *classes[at + 2 :]]
