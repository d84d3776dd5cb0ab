"""Keeps: which units of each group survive; one after another, and back in time."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import Keeps, UnitKeeps
from dynhp_jax.surgery.cut import cut


def compose(groups: Groups, first: Keeps, then: Keeps) -> UnitKeeps:
    """Two cuts as one: the survivors of the second, counted in the network before the first.

    Args:
      groups: of the network before the first cut.
      first: its keeps.
      then: the keeps of the second cut, counted in the network after the first.

    Raises:
      ValueError: for keeps that `Groups.check_keeps` refuses.
    """
    after = groups.shrunk(first).check_keeps(then)
    first = {**first, **groups.check_keeps(first)}  # without units that went with blocks
    names = [name for name in groups if name in first or name in after]
    found = {}
    for name in names:
        keep = np.asarray(first.get(name, np.arange(groups[name].size)))
        found[name] = keep[after[name]] if name in after else keep
    return UnitKeeps(found, groups)


def rewind(saved: Any, groups: Groups, keeps: Keeps) -> Any:
    """The surviving units with the weights they had at an earlier point of training.

    Source: Frankle and Carbin 2019 (1803.03635): prune, reset what survives to its initial values,
    train again; with `saved` from a few epochs in: Frankle et al. 2020 (1912.05671).

    Args:
      saved: variables of the whole network at that point, before any cut.
      groups: of the whole network.
      keeps: the survivors, counted in the whole network (`compose` adds up rounds).

    Returns:
      Variables of the shapes of the pruned network, arrays of their own: a step that donates them
      leaves `saved` as it is.
    """
    return jax.tree.map(
        lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, cut(saved, groups, keeps)
    )
