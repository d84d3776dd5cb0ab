"""Leaves of the variables that are trained whole: the base of all methods of fine-tuning.

Everything else is frozen: it has no gradient and no state of the optimizer, and of what it read
nothing is kept. The head, by default the layer of the last kernel, is trained by every method, as
in the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.bit_activations import bit_activations
from dynhp_jax.finetune.costs import Cost, channel_costs
from dynhp_jax.finetune.rows import leaves_by_path
from dynhp_jax.training.extension import Extension

WHOLE = "whole"  # of what is trained, the leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves(Extension):
    """The head, and whatever a method adds to it.

    Attributes:
      head: below which path everything is trained whole; '' for the last kernel's layer.
      bits: whether ReLU, max-pool and the like keep bits for the backward pass, exactly.
      whole: paths of what is trained whole; of the model that the method is bound to.
    """

    head: Path = ""
    bits: bool = True
    whole: tuple[Path, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)

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
        head |= set(self.beside(costs, leaves))
        return {"whole": tuple(path for path in leaves if path in head)}

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

    def trained(self, variables: Any, own: Any) -> dict[str, Any]:
        """The leaves, by path."""
        leaves = leaves_by_path(variables)
        return {WHOLE: {path: leaves[path] for path in self.whole}}

    def forward(self, apply: Callable) -> Callable:
        """The model with these leaves."""
        inner = self.transformed(bit_activations(apply) if self.bits else apply)

        def f(variables: Any, trained: Any, own: Any, *rest: Any) -> Any:
            return inner(replaced(variables, trained[WHOLE]), trained, own, *rest)

        return f

    def transformed(self, apply: Callable) -> Callable:
        """`f(variables, trained, own, *rest)`: computed with the leaves in the variables."""
        return lambda variables, trained, own, *rest: apply(variables, *rest)

    def updated(self, variables: Any, own: Any, trained: Any, change: Any) -> tuple[Any, Any]:
        """The leaves, changed."""
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


def layer_of(kernel: Path, costs: Mapping[Path, Cost]) -> Path:
    """The path of a kernel and what lies beside it; of the kernel alone if other kernels do.

    >>> layer_of("params/out/kernel", {"params/in/kernel": None, "params/out/kernel": None})
    'params/out'
    >>> layer_of("params/out", {"params/in": None, "params/out": None})
    'params/out'
    """
    parent = kernel.rpartition("/")[0]
    alone = parent != "params" and sum(map(below(parent), costs)) == 1
    return parent if alone else kernel


def replaced(variables: Any, leaves: Mapping[Path, Any]) -> Any:
    """The variables with other leaves at some paths."""
    names, structure = list(leaves_by_path(variables)), jax.tree.structure(variables)
    old = jax.tree.leaves(variables)
    return structure.unflatten(
        [leaves.get(name, leaf) for name, leaf in zip(names, old, strict=True)]
    )
