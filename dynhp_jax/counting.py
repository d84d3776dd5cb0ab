"""How many numbers survive: in all parameters, and among the weights that read a unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from dynhp_jax.groups import Groups
    from dynhp_jax.members import Path


def alive_positions(groups: Groups, path: Path, axis: int, alive: Mapping[str, Any]) -> Any:
    """f32[axis size]: one where a position of the axis survives; traceable.

    Args:
      groups: the groups.
      path: a leaf.
      axis: its axis.
      alive: name -> f32[units], one for a unit that survives; a missing name is all ones.
    """
    size = groups.shapes[path][axis]
    result = jnp.ones(size)
    for group, member in groups.on_axis(path, axis):
        if group.name in alive:
            unit = np.full(size, group.size)
            unit[member.index] = np.arange(group.size)[:, None]
            result = result * jnp.append(jnp.asarray(alive[group.name], jnp.float32), 1.0)[unit]
    return result


def _alive_count(groups: Groups, path: Path, axis: int, alive: Mapping[str, Any]) -> Any:
    if not any(g.name in alive for g, _ in groups.on_axis(path, axis)):
        return groups.shapes[path][axis]
    return jnp.sum(alive_positions(groups, path, axis, alive))


def fan_out(groups: Groups, alive: Mapping[str, Any]) -> dict[str, Any]:
    """How many surviving weights read each unit (the weight of its gate in the L0 penalty).

    Args:
      groups: the groups.
      alive: name -> f32[units] of ones and zeros; traceable.

    Returns:
      name -> f32[units].
    """
    out = {}
    for name, group in groups.items():
        total = jnp.zeros(group.size)
        for m in group.members:
            if m.role != "in":
                continue
            others = 1.0
            for axis in range(len(groups.shapes[m.path])):
                if axis != m.axis:
                    others = others * _alive_count(groups, m.path, axis, alive)
            here = alive_positions(groups, m.path, m.axis, alive)
            total = total + others * jnp.sum(here[m.index], axis=1)
        out[name] = total
    return out


def parameter_count(groups: Groups, alive: Mapping[str, Any], prefix: str = "params") -> Any:
    """Numbers that survive in the leaves below `prefix` (all variables: ''); traceable."""
    total = 0.0
    for path, shape in groups.shapes.items():
        if path.startswith("inputs/") or not path.startswith(prefix):
            continue
        count = 1.0
        for axis in range(len(shape)):
            count = count * _alive_count(groups, path, axis, alive)
        total = total + count
    return total
