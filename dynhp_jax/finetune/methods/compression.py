"""What trained layers read is kept decomposed: an option of every method, and methods by its name.

The ranks are those that keep a share `epsilon` of the energy of every axis on one mini-batch. They
are found before the first epoch, and again every `calibrate` epochs; in between they are static.
Of a mini-batch in micro-batches each of these is decomposed, and ASI's subspaces go from one to the
next.
The factors that ASI and fixed projections start from are kept beside the state, and count as its
bytes. With chosen rows it is their channels that are decomposed; for other rows the factors start
anew, the ranks stay.

Sources: HOSVD and SVD (2411.06346), ASI (2505.05086), fixed factors as in LANCE (2509.21617).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.calibration import calibrate, factors_of
from dynhp_jax.finetune.compressed import HOW, WITH_STATE, compressed
from dynhp_jax.finetune.rank_search import search_ranks
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.training.extension import Decided, EpochStart

RANKS, SUBSPACES = "ranks", "subspaces"  # of what is kept
_SIZED = "ranks "  # before a path, in what is decided

# path -> (axis, size of its factor, its rank) of every axis that is decomposed
Sized = Mapping[Path, tuple[tuple[int, int, int], ...]]


@dataclasses.dataclass(frozen=True)
class Compression:
    """How what is read is kept.

    Attributes:
      how: as in `finetune.compressed`; '' for whole.
      epsilon: the share of the energy that every axis keeps.
      every: epochs between two calibrations; 0 for one before the first epoch.
      per_layer: whether every layer has a share of its own; see `rank_search`.
    """

    how: str
    epsilon: float
    every: int
    per_layer: bool = False

    def __post_init__(self):
        if self.how and self.how not in HOW:
            allowed = ", ".join(map(repr, ("", *HOW)))
            raise UserError(f"compress is {shown(self.how)}; allowed: {allowed}")
        number = isinstance(self.epsilon, (int, float)) and not isinstance(self.epsilon, bool)
        if not number or not 0 < self.epsilon <= 1:
            said = shown(self.epsilon)
            raise UserError(f"epsilon is {said}; allowed: a number above 0 and at most 1")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 0:
            raise UserError(f"calibrate is {shown(self.every)}; allowed: whole epochs, 0 or more")

    @property
    def with_state(self) -> bool:
        """Whether factors are kept from step to step."""
        return self.how in WITH_STATE

    def due(self, own: Any, epoch: int) -> bool:
        """Whether ranks are found before this epoch."""
        again = self.every > 0 and (epoch - 1) % self.every == 0
        return bool(self.how) and (again or not own or RANKS not in own)

    def calibrated(
        self,
        variables: Any,
        start: EpochStart,
        paths: Iterable[Path],
        rows: Mapping[Path, Rows] | None,
        sized: Sized | None = None,
    ) -> dict[str, Any]:
        """What is kept of a calibration.

        Args:
          variables: of the model.
          start: of the epoch.
          paths: the kernels.
          rows: the chosen rows of those of which some are.
          sized: the ranks, if they are known.

        Raises:
          UserError: there are fewer examples to look at than are trained on at once.
        """
        at_once = start.batch // start.parts
        if len(start.examples) < at_once:
            raise UserError(
                f"ranks are found on a mini-batch of {at_once}, and scores.examples lets a"
                f" method look at {len(start.examples)} examples; give more"
            )
        seen = start.examples.first(at_once)
        inputs, factors = seen.inputs, {}
        given = {"paths": list(paths), "how": self.how, "epsilon": self.epsilon, "rows": rows}
        if sized is not None:
            ranks = _ranks(sized)
        elif self.per_layer:
            ranks = search_ranks(
                start.apply, variables, inputs, **given,
                loss=lambda outputs: jnp.mean(start.loss(outputs, seen.targets)),
            )  # fmt: skip
        else:
            key = start.key if self.how == "random" else None
            ranks, factors = calibrate(start.apply, variables, inputs, **given, key=key)
        if self.with_state and not factors:
            factors = factors_of(
                start.apply, variables, inputs, ranks=ranks, how=self.how, rows=rows, key=start.key
            )
        found = {path: _sizes(each, factors.get(path, {})) for path, each in ranks.items()}
        return kept_of(found, factors)

    def around(self, apply: Callable, sized: Sized) -> Callable:
        """`f(variables, own, *rest) -> (outputs, updates)` of `apply(variables, *rest)`."""
        inner = compressed(apply, _ranks(sized), self.how)

        def f(variables: Any, own: Any, *rest: Any) -> Any:
            # Of the micro-batch before, where there is one; else of the step before.
            before = {**own, **variables}.get(SUBSPACES, {})
            variables = {name: each for name, each in variables.items() if name != SUBSPACES}
            factors = before if self.with_state else {}
            given = {path: _by_axis(each) for path, each in factors.items()}
            (outputs, updates), found = inner(variables, given, *rest)
            if self.with_state:
                updates = {**updates, SUBSPACES: {p: _by_name(each) for p, each in found.items()}}
            return outputs, updates

        return f


def kept_of(shapes: Sized, factors: Any) -> dict[str, Any]:
    """What is kept of some ranks and factors; arrays alone, none of them empty."""
    ranks = {path: jnp.asarray(np.ravel(each), jnp.int32) for path, each in shapes.items() if each}
    found: dict[str, Any] = {RANKS: ranks} if ranks else {}
    if factors and ranks:
        found[SUBSPACES] = {path: _by_name(factors[path]) for path in ranks}
    return found


def empty(sized: Sized, with_state: bool) -> dict[str, Any]:
    """Zeros of the shapes of what is kept."""
    zeros = {
        path: {axis: jnp.zeros((size, rank)) for axis, size, rank in each}
        for path, each in sized.items()
    }
    return kept_of(sized, with_state and zeros)


def decided(own: Any) -> Decided:
    """The ranks that were found, of what is kept."""
    ranks = own.get(RANKS, {}) if own else {}
    return tuple((_SIZED + path, tuple(map(int, each))) for path, each in sorted(ranks.items()))


def sized_by(found: Decided) -> dict[Path, tuple[tuple[int, int, int], ...]]:
    """The inverse of `decided`."""
    ranks = {n.removeprefix(_SIZED): each for n, each in found if n.startswith(_SIZED)}
    return {
        path: tuple((each[k], each[k + 1], each[k + 2]) for k in range(0, len(each), 3))
        for path, each in ranks.items()
    }


def _ranks(sized: Sized) -> dict[Path, dict[int, int]]:
    return {path: {axis: rank for axis, _, rank in each} for path, each in sized.items()}


def _sizes(ranks: Mapping[int, int], factors: Mapping[int, Any]) -> tuple:
    """With the sizes of factors that are kept; 0 where none are."""
    sizes = {axis: factor.shape[0] for axis, factor in factors.items()}
    return tuple((axis, sizes.get(axis, 0), rank) for axis, rank in ranks.items())


def _by_name(factors: Mapping[int, Any]) -> dict[str, Any]:
    """By texts, as a checkpoint has them."""
    return {str(axis): factor for axis, factor in factors.items()}


def _by_axis(factors: Mapping[str, Any]) -> dict[int, Any]:
    return {int(axis): factor for axis, factor in factors.items()}
