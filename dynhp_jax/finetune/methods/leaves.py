"""Leaves of the variables that are trained whole: the base of all methods of fine-tuning.

Everything else is frozen: it has no gradient and no state of the optimizer, and of what it read
nothing is kept. The head, by default the layer of the last kernel, is trained by every method, as
in the papers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.bit_activations import bit_activations
from dynhp_jax.finetune.costs import Cost, channel_costs, layer_of
from dynhp_jax.finetune.methods import compression
from dynhp_jax.finetune.rows import Rows, leaves_by_path, replaced
from dynhp_jax.training.extension import Decided, EpochStart, Extension

WHOLE = "whole"  # of what is trained, the leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves(Extension):
    """The head, and whatever a method adds to it.

    Attributes:
      head: below which path everything is trained whole; '' for the last kernel's layer.
      bits: whether ReLU, max-pool and the like keep bits for the backward pass, exactly.
      compress: how what the trained kernels read is kept: 'svd', 'hosvd', 'asi' or 'fixed', see
        `methods.compression`; '' for whole. The head's input always is.
      epsilon: the share of the energy that every axis keeps.
      calibrate: epochs between two choices of the ranks; 0 for one before the first epoch.
      per_layer: whether every layer has a share of its own, with which gradients differ least from
        the exact ones in the numbers that `epsilon` for all of them stores; `rank_search`.
      whole: paths of what is trained whole; of the model that the method is bound to.
      kernels: those among them that are not the head's; likewise.
      ranks: that were found in the run.
    """

    head: Path = ""
    bits: bool = True
    compress: str = ""
    epsilon: float = 0.8
    calibrate: int = 0
    per_layer: bool = False
    whole: tuple[Path, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)
    kernels: tuple[Path, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)
    ranks: compression.Sized = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        self.compression  # noqa: B018 (raises what is not allowed)

    @property
    def compression(self) -> compression.Compression:
        """How what is read is kept."""
        return compression.Compression(self.compress, self.epsilon, self.calibrate, self.per_layer)

    # -- what a method says ------------------------------------------------------------------------

    def beside(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> Iterable[Path]:
        """Paths of what is trained whole beside the head.

        Args:
          costs: of all kernels, in the order of execution.
          leaves: of the parameters, by path: shapes.
        """
        return ()

    def found(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """Fields of the method that follow from a model.

        Raises:
          UserError: nothing lies below the head.
        """
        inside = below(self.head or layer_of(list(costs)[-1], costs))
        head = {path for path in leaves if inside(path)}
        if not head:
            raise UserError(
                f"nothing lies below the head {self.head!r}; give a path of the variables"
            )
        beside = set(self.beside(costs, leaves)) - head
        return {
            "whole": tuple(path for path in leaves if path in head | beside),
            "kernels": tuple(path for path in costs if path in beside),
        }

    # -- the parts of a step -----------------------------------------------------------------------

    def bound(self, apply: Callable, shapes: Any, inputs: Any) -> Leaves:
        """With the fields that follow from a model.

        Raises:
          UserError: the model has no kernels, or what the method asks for is not there.
        """
        costs, bound = channel_costs(apply, shapes, inputs), dataclasses.replace(self)
        leaves = leaves_by_path(shapes)
        leaves = {path: leaf for path, leaf in leaves.items() if path.startswith("params/")}
        for name, value in self.found(costs, leaves).items():
            object.__setattr__(bound, name, value)
        return bound

    def start(self, variables: Any, key: jax.Array) -> Any:
        """What is kept of the compression."""
        found = compression.empty(self.ranks, self.compression.with_state)
        return found if self.compress else ()

    def begin_epoch(
        self, own: Any, opt_state: Any, variables: Any, start: EpochStart
    ) -> tuple[Any, Any]:
        """With other ranks, if it is time."""
        return self.recompressed(own, variables, start), opt_state

    def recompressed(
        self,
        own: Any,
        variables: Any,
        start: EpochStart,
        rows: Mapping[Path, Rows] | None = None,
        others: bool = False,
        resized: bool = False,
    ) -> Any:
        """`own` with ranks and factors for the next epoch.

        Args:
          own: what is kept.
          variables: of the model.
          start: of the epoch.
          rows: of which the channels are compressed, beside whole kernels.
          others: whether these are other rows than before.
          resized: whether they are of other numbers.
        """
        again = resized or self.compression.due(own, start.epoch)
        if not self.compress or not (again or (others and self.compression.with_state)):
            return own
        paths = [*self.kernels, *(rows or {})]
        known = None if again else compression.sized_by(compression.decided(own))
        found = self.compression.calibrated(variables, start, paths, rows, known)
        rest = {k: v for k, v in own.items() if k not in (compression.RANKS, compression.SUBSPACES)}
        return {**rest, **found}

    def decided(self, own: Any) -> Decided:
        """The ranks."""
        return compression.decided(own) if self.compress else ()

    def sized(self, decided: Decided) -> Leaves:
        """With ranks."""
        found = copy.copy(self)
        object.__setattr__(found, "ranks", compression.sized_by(decided))
        return found

    def cut(self, own: Any, mirrored: Callable[[Any], Any]) -> Any:
        """No ranks, of the smaller arrays; before the next epoch some are found."""
        return {} if self.compress else ()

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """The leaves, by path."""
        leaves = leaves_by_path(variables)
        return {WHOLE: {path: leaves[path] for path in self.whole}}

    def forward(self, apply: Callable) -> Callable:
        """The model with these leaves."""
        inner = self.transformed(bit_activations(apply) if self.bits else apply)
        outer = self.compression.around(inner, self.ranks) if self.ranks else None

        def f(variables: Any, trained: Any, own: Any, *rest: Any) -> Any:
            variables, given = replaced(variables, trained[WHOLE]), self.arguments(trained, own)
            if outer is None:
                return inner(variables, *given, *rest)
            return outer(variables, own, *given, *rest)

        return f

    def transformed(self, apply: Callable) -> Callable:
        """`f(variables, *arguments, *rest)`: the model under transforms of the method."""
        return apply

    def arguments(self, trained: Any, own: Any) -> tuple[Any, ...]:
        """What these transforms take."""
        return ()

    def passed_on(self, own: Any) -> dict[str, Any]:
        """The subspaces, which go from one micro-batch to the next."""
        return {n: own[n] for n in (compression.SUBSPACES,) if self.ranks and n in own}

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """The leaves, changed; the subspaces of this step, which the model gave as an update."""
        if compression.SUBSPACES in variables:
            variables = dict(variables)
            own = {**own, compression.SUBSPACES: variables.pop(compression.SUBSPACES)}
        return replaced(variables, optax.apply_updates(trained[WHOLE], change[WHOLE])), own


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeLeaves(Leaves):
    """Methods that train leaves and nothing else; derive from it to say which."""

    parameters: int = dataclasses.field(default=0, init=False, repr=False, compare=False)

    def found(self, costs: Mapping[Path, Cost], leaves: Mapping[Path, Any]) -> dict[str, Any]:
        """With the number of what is trained."""
        found = super().found(costs, leaves)
        count = sum(int(np.prod(leaves[path].shape)) for path in found["whole"])
        return found | {"parameters": count}

    def record(self, own: Any) -> dict[str, float]:
        """How many parameters are trained."""
        return {"parameters": float(self.parameters)}
