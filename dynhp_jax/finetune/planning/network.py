"""What of a network may be trained, and the norms of its gradient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import Path, below
from dynhp_jax.finetune.costs import Cost, channel_costs, layer_of
from dynhp_jax.finetune.drawing import row_norms
from dynhp_jax.finetune.kernel_products import KernelReads
from dynhp_jax.finetune.planning.step import Task
from dynhp_jax.finetune.rows import every_row, leaves_by_path, replaced, take_rows
from dynhp_jax.jaxprs.trace import trace

MEASURED, GIVEN = "the gradient's norm", "the norms that were given"
ALIKE = "the norm of a gradient that is the same for all numbers"


def costs_of(
    apply: Any, variables: Any, inputs: tuple, layers: Collection[Path]
) -> dict[Path, Cost]:
    """The costs of all kernels, in the order of execution; of 'params', if there is such a part.

    Raises:
      UserError: there is nothing to select, or no kernel of such a path.
    """
    if layers:
        KernelReads(trace(apply, variables, inputs)).check(layers)
    named = isinstance(variables, Mapping) and "params" in variables
    return channel_costs(apply, variables, *inputs, prefix="params" if named else "")


def head_of(variables: Any, costs: Mapping[Path, Cost], head: Path) -> tuple[Path, ...]:
    """Paths of what is trained whole: below `head`, or the layer of the last kernel.

    Raises:
      UserError: nothing lies below it.
    """
    inside = below(head or layer_of(list(costs)[-1], costs))
    found = tuple(path for path in leaves_by_path(variables) if inside(path))
    if not found:
        raise UserError(f"nothing lies below the head {head!r}; give a path of the variables")
    return found


def concrete(task: Task) -> bool:
    """Whether there are arrays to compute with, not shapes alone."""
    leaves = jax.tree.leaves((task.variables, task.inputs, task.targets))
    return not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def norms_of(task: Task, costs: Mapping[Path, Cost]) -> tuple[dict[Path, Any], str]:
    """The norms of the rows of the whole gradient, of the mini-batch, and what they are of.

    Of shapes alone every number of a kernel counts as 1, and so it does where the gradient is zero,
    as below a head that starts with zeros.

    Returns:
      (path -> f[channels], MEASURED or ALIKE).

    Raises:
      UserError: they are not finite.
    """
    alike = {path: np.full(cost.channels, cost.weight**0.5) for path, cost in costs.items()}
    if not concrete(task):
        return alike, ALIKE

    def norms(variables: Any, inputs: tuple, targets: Any) -> dict[Path, jax.Array]:
        leaves = leaves_by_path(variables)

        def of(kernels: Mapping[Path, Any]) -> Any:
            return task.loss(task.apply(replaced(variables, kernels), *inputs), targets)

        gradients = jax.grad(of)({path: leaves[path] for path in costs})
        rows = {path: every_row(cost.layout) for path, cost in costs.items()}
        return row_norms(take_rows(replaced(variables, gradients), rows), rows)

    found = jax.device_get(jax.jit(norms)(task.variables, task.inputs, task.targets))
    whole = sum(float(np.square(each, dtype=np.float64).sum()) for each in found.values())
    if not np.isfinite(whole):
        raise UserError("the gradient is not finite on this mini-batch; give other examples")
    return (found, MEASURED) if whole else (alike, ALIKE)
