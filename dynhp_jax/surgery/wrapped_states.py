"""Optimizer states that another library holds in boxes of its own, as optax makes them and back.

`nnx.Optimizer` puts every array of an optax state into a variable, and `nnx.state` gives the state
as nested mappings. The leaves are the same, their paths too, but for the box's own field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from dynhp_jax.common.tree_paths import leaf_paths


def as_optax(opt_state: Any, expected: Any) -> tuple[Any, Callable[[Any], Any]]:
    """An optimizer state in the structure that `tx.init` gives, and the way back.

    Args:
      opt_state: a state of `tx`, from `tx.init` and updates, or as a library holds it.
      expected: what `tx.init` gives (arrays or shapes).

    Returns:
      (state, back): `back(new_state)` holds the leaves of a state like `state` as `opt_state` held
      them. Of a state whose leaves are not the expected ones `state` is `opt_state` itself.

    Raises:
      ValueError: an object that has the state among others, such as an `nnx.Optimizer`.
    """
    structure = jax.tree.structure(opt_state)
    if structure == jax.tree.structure(expected):
        return opt_state, lambda state: state
    names, wanted = _names(opt_state), _names(expected)
    if set(names) != set(wanted) or not len(set(names)) == len(names) == len(wanted):
        _refuse_owner(opt_state)
        return opt_state, lambda state: state
    leaves = dict(zip(names, jax.tree.leaves(opt_state), strict=True))
    state = jax.tree.structure(expected).unflatten(leaves[name] for name in wanted)

    def back(changed: Any) -> Any:
        found = dict(zip(wanted, jax.tree.leaves(changed), strict=True))
        return structure.unflatten(found[name] for name in names)

    return state, back


def _names(tree: Any) -> list[str]:
    """The paths of the leaves without the field that a variable of NNX or a box holds them in."""
    return [path.removesuffix("/value") for path in leaf_paths(tree)]


def _refuse_owner(found: Any) -> None:
    inside = "['opt_state']" if isinstance(found, Mapping) and "opt_state" in found else ""
    inside = inside or (".opt_state" if hasattr(found, "opt_state") else "")
    if inside:
        raise ValueError(
            f"this {type(found).__name__} holds an optimizer state among others; pass its {inside}"
        )
