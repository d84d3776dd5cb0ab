"""From scores to keeps: the units with the lowest go until a target is met.

>>> import jax, jax.numpy as jnp, numpy as np
>>> from dynhp_jax import find_groups
>>> from dynhp_jax.pruning.targets import Parameters
>>> def apply(params, x):
...     return jax.nn.relu(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 2))}
>>> groups = find_groups(apply, params, jnp.ones((8, 4)))
>>> pruned = prune_to({"a": np.array([3.0, 1, 5, 2, 6, 4])}, groups, Parameters(20))
>>> pruned.keeps["a"].tolist()
[2, 4, 5]
>>> print(pruned.describe())
18 parameters of at most 20 (36 before); a: 3 of 6 units
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.memory import largest_fit
from dynhp_jax.pruning.criteria.contract import check_scores
from dynhp_jax.pruning.scales import SCALES, SCOPES
from dynhp_jax.pruning.targets import Target
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import UnitKeeps, check_no_keeps


@dataclasses.dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune_to` chose, and what it reached.

    Attributes:
      keeps: the surviving units of every group that was scored, for `cut`.
      before: what the network measured, in the unit of the target.
      reached: what it measures with these units; at most `target.most`.
      target: what was asked for.
      sizes: how many units each of these groups had.
    """

    keeps: UnitKeeps
    before: int
    reached: int
    target: Target
    sizes: dict[str, int]

    @property
    def widths(self) -> dict[str, int]:
        """How many units of every group survive."""
        return {name: keep.size for name, keep in self.keeps.items()}

    def describe(self) -> str:
        """One line for a person to read."""
        units = ", ".join(
            f"{name}: {width} of {self.sizes[name]} units" for name, width in self.widths.items()
        )
        return (
            f"{self.reached:,} {self.target.what} of at most {int(self.target.most):,} "
            f"({self.before:,} before); {units}"
        )


def prune_to(
    scores: Mapping[str, Any],
    groups: Groups,
    target: Target,
    *,
    scope: str = "global",
    scale: str = "mean",
    minimum: int | Mapping[str, int] = 1,
    multiple: int = 1,
) -> Pruned:
    """Takes away as few units as meet the target, those with the lowest scores first.

    Args:
      scores: {group: [units]}; groups that are left out stay whole. Of equal scores, the unit with
        the higher index goes first; if all scores of a group are equal and units of it go, there
        is a warning.
      groups: of the network as it is.
      target: what may remain.
      scope: 'global' compares the units of all groups; 'group' leaves every group the same share.
      scale: with the global scope, what each group's scores are divided by first: their 'mean' or
        'max' in absolute value; 'none' for scores that are comparable as they are, such as changes
        of the loss (Taylor, Fisher).
      minimum: units that every group keeps at least; also by group, {name: units}, else 1.
      multiple: widths are rounded down to a multiple of this. A group that loses nothing keeps its
        width; one whose minimum is no multiple keeps the next one up.

    Returns:
      The keeps, and what they reach.

    Raises:
      UserError: a target that cannot be reached (the smallest that can is named), or an option
        that is not allowed.
      ValueError: scores of the wrong shape, not finite, or of no group.
    """
    if scope not in SCOPES or scale not in SCALES:
        name, found, allowed = ("scope", scope, SCOPES) if scope not in SCOPES else (
            "scale", scale, SCALES
        )  # fmt: skip
        raise UserError(f"{name} is {found!r}; allowed: {', '.join(map(repr, allowed))}")
    check_no_keeps(scores, "scores")
    path = _Path(check_scores(scores, groups), groups, scope, scale, minimum, multiple)

    def measure(step: int) -> int:
        return target.measure(groups, path.keeps(step))

    before = measure(path.steps)
    if before <= target.most:
        chosen, reached = path.steps, before
    else:
        chosen, reached = _last_within(measure, target, path.steps, before)
    if chosen < 0:
        raise UserError(
            f"the target of at most {int(target.most):,} {target.what} cannot be reached by taking "
            f"units from {', '.join(path.sizes)}; the smallest that can is {reached:,}, with the "
            f"widths {path.widths(0)}"
        )
    keeps = path.keeps(chosen)
    keeps |= {name: kept for name, kept in groups.check_keeps(keeps).items() if name in keeps}
    _warn_of_equal_scores(path, keeps)
    return Pruned(UnitKeeps(keeps, groups), before, reached, target, path.sizes)


def _last_within(measure: Any, target: Target, steps: int, before: int) -> tuple[int, int]:
    """(the largest step that measures at most the limit, or -1; what it measures)."""
    seen = {steps: before}

    def look(step: int) -> int:
        if step not in seen:
            seen[step] = measure(step)
        return seen[step]

    if look(0) > target.most:
        return -1, look(0)
    if target.compiles:  # `largest_fit` counts from 1
        most = int(target.most)
        found = largest_fit.largest(lambda n: look(n - 1), most, 1, steps + 1) - 1
        return found, look(found)
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if look(middle) <= target.most else (low, middle)
    return low, look(low)


def _warn_of_equal_scores(path: _Path, keeps: Mapping[str, np.ndarray]) -> None:
    """Where all scores of a group are the same, its units go by their index, whatever they do."""
    cut_alike = [n for n, keep in keeps.items() if keep.size < path.sizes[n] and path.alike[n]]
    if cut_alike:
        warnings.warn(
            f"all units of {', '.join(map(repr, cut_alike))} have the same score, so those of the "
            "highest index go; see whether the criterion fits the model and its loss",
            stacklevel=3,
        )


class _Path:
    """Widths from the smallest (step 0) to the whole (step `steps`), each within the next."""

    def __init__(
        self,
        scores: dict[str, np.ndarray],
        groups: Groups,
        scope: str,
        scale: str,
        minimum: int | Mapping[str, int],
        multiple: int,
    ):
        self.sizes = {name: groups[name].size for name in scores}
        self.alike = {name: bool((score == score[0]).all()) for name, score in scores.items()}
        self.scope, self.multiple = scope, _whole("multiple", multiple)
        if isinstance(minimum, Mapping):
            groups.check_names(list(minimum))
        else:
            minimum = dict.fromkeys(scores, minimum)
        self.blocks = {name: groups[name].blocks for name in scores}
        self.least = {
            name: min(
                size,
                self._up(name, max(groups[name].least, _whole("minimum", minimum.get(name, 1)))),
            )
            for name, size in self.sizes.items()
        }
        # Best first, of each block one after the other; of equal ones the first.
        self.order = {name: _by_rank(score, self.blocks[name]) for name, score in scores.items()}
        if scope == "group":
            self.steps = sum(self.sizes.values())
            return
        self.names = list(scores)
        removable = []  # (score, group, rank among the best first)
        for number, (name, score) in enumerate(scores.items()):
            by = SCALES[scale](score.astype(np.float64)) or 1.0
            ranked = score[self.order[name]].reshape(-1, self.blocks[name]).mean(1)
            for rank in range(self.least[name] // self.blocks[name], ranked.size):
                removable.append((ranked[rank] / by, number, rank))
        # The highest come back first; within a group in its own order.
        removable.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
        self.returning = np.array([number for _, number, _ in removable], int)
        self.steps = len(removable)

    def _up(self, name: str, width: int) -> int:
        multiple = self._multiple(name)
        return -(-width // multiple) * multiple

    def _multiple(self, name: str) -> int:
        """Of what widths have to be multiples: as many of each block stay."""
        return math.lcm(self.multiple, self.blocks[name])

    def widths(self, step: int) -> dict[str, int]:
        if self.scope == "group":
            counts = {name: size * step // self.steps for name, size in self.sizes.items()}
        else:
            back = np.bincount(self.returning[:step], minlength=len(self.names))
            counts = {
                name: self.least[name] + int(back[number]) * self.blocks[name]
                for number, name in enumerate(self.names)
            }
        return {
            name: count
            if count == self.sizes[name]
            else max(self.least[name], count // self._multiple(name) * self._multiple(name))
            for name, count in counts.items()
        }

    def keeps(self, step: int) -> dict[str, np.ndarray]:
        return {
            name: np.sort(self.order[name][:width]) for name, width in self.widths(step).items()
        }


def _by_rank(score: np.ndarray, blocks: int) -> np.ndarray:
    """Units by score: the best of every block, then the second best of every block, ..."""
    order = np.argsort(-score.reshape(blocks, -1), axis=1, kind="stable")
    return (order + np.arange(blocks)[:, None] * order.shape[1]).T.reshape(-1)


def _whole(name: str, found: Any) -> int:
    if isinstance(found, bool) or not hasattr(found, "__index__") or found < 1:
        raise UserError(f"{name} is {found!r}; allowed: whole numbers from 1")
    return int(found)
