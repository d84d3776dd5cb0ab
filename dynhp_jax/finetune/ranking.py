"""Which layers are worth their memory: norms of gradients over what their rows cost.

Sources: TraDy (2510.19675) for RGN, MeDyate (2510.20979) for LaRa.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost


def reweighted_norm(norms: np.ndarray, cost: Cost) -> float:
    """RGN of a layer: the sum over its rows of the gradient's norm by the row's cost."""
    return float(norms.sum() / cost.row)


def layer_ratio(norms: np.ndarray, cost: Cost) -> float:
    """LaRa of a layer: the norm of its whole gradient by the cost of all its rows."""
    return float(np.sqrt(np.square(norms).sum()) / cost.total)


MEASURES: dict[str, Callable[[np.ndarray, Cost], float]] = {
    "rgn": reweighted_norm,
    "lara": layer_ratio,
}


def rank_layers(
    norms: Mapping[Path, Any],
    costs: Mapping[Path, Cost],
    rule: str = "rgn",
    budget: float | None = None,
    share: float | None = None,
) -> tuple[Path, ...]:
    """The layers whose rows are drawn from, the best first.

    With `rule='rgn'` these are the fewest layers that hold `share` of the sum of all measures. With
    `rule='lara'` they are the fewest of which the budget is at most `share`: alpha_K = B / M_K,
    where M_K is the cost of the best K layers.

    Args:
      norms: path -> f[channels], norms of the rows' gradients, accumulated over some epochs.
      costs: from `channel_costs`.
      rule: 'rgn' (TraDy) or 'lara' (MeDyate).
      budget: numbers; needed by 'lara'.
      share: by default 0.97 with 'rgn' and 0.2 with 'lara', as in the papers.

    Raises:
      UserError: an unknown rule, a layer without a cost, no budget where one is needed, or norms
        that are negative, not finite or all zero.

    >>> cost = Cost("dense", 2, 3, 1, 0, 0, 0, None)
    >>> rank_layers({"a": [1.0, 1.0], "b": [50.0, 50.0]}, {"a": cost, "b": cost})
    ('b',)
    """
    if rule not in MEASURES:
        raise UserError(f"the rule is {shown(rule)}; allowed: {', '.join(map(repr, MEASURES))}")
    if rule == "lara" and budget is None:
        raise UserError("rule='lara' ranks layers for a budget; give budget=, in numbers")
    found = {}
    for path, each in norms.items():
        if path not in costs:
            raise UserError(f"there is no cost of {path!r}; give the costs of the same function")
        each = np.asarray(each, np.float64)
        if not (np.isfinite(each).all() and (each >= 0).all()):
            raise UserError(f"norms of {path!r} are negative or not finite; lower the rate")
        found[path] = MEASURES[rule](each, costs[path])
    ranked = sorted(found, key=lambda path: -found[path])
    if rule == "lara":
        return _of_budget(ranked, costs, budget, 0.2 if share is None else share)
    total, wanted, so_far = sum(found.values()), 0.97 if share is None else share, 0.0
    if not total > 0:
        raise UserError("all norms are zero, so no layer is better than another; train some steps")
    for count, path in enumerate(ranked, start=1):
        so_far += found[path]
        if so_far >= wanted * total:
            return tuple(ranked[:count])
    return tuple(ranked)


def _of_budget(
    ranked: list[Path], costs: Mapping[Path, Cost], budget: float, share: float
) -> tuple[Path, ...]:
    so_far = 0
    for count, path in enumerate(ranked, start=1):
        so_far += costs[path].total
        if budget <= share * so_far:
            return tuple(ranked[:count])
    return tuple(ranked)
