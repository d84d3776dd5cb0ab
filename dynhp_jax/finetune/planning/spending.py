"""What the bytes of a step are spent on: what is known beforehand, and of its executable."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.finetune.planning.step import Step
from dynhp_jax.memory.compiled import StepBytes, compiled_bytes

ARGUMENTS = ("parameters", "optimizer", "row numbers", "batch")
_KEPT = ("inputs kept", "masks", "other values kept")
PARTS = (*ARGUMENTS, "gradients", *_KEPT, "transients", "libraries")


def before_compiling(step: Step) -> dict[str, int]:
    """Bytes of what a step takes and of its gradients; no executable of it takes less.

    By the first of PARTS.
    """
    variables, state, rows, *batch = step.arguments()
    trained = jax.eval_shape(step.task.trained, variables, rows)
    sizes = map(array_bytes, (variables, state, rows, batch, trained))
    return dict(zip((*ARGUMENTS, "gradients"), sizes, strict=True))


def kept(step: Step) -> dict[str, int]:
    """Bytes that one part of the mini-batch keeps for its backward pass; traced, not compiled."""
    parts = step.setting.parts
    whole = dataclasses.replace(step, setting=dataclasses.replace(step.setting, parts=1))
    variables, state, rows, inputs, targets = step.arguments()
    inputs, targets = jax.tree.map(
        lambda x: x.update(shape=(x.shape[0] // parts, *x.shape[1:])), (inputs, targets)
    )

    def backward(trained: Any, variables: Any, factors: Any, rows: Any, *batch: Any) -> Any:
        of = whole.objective(variables, rows)
        return jax.vjp(lambda trained: of(trained, factors, *batch)[0], trained)[1]

    trained = jax.eval_shape(step.task.trained, variables, rows)
    jaxpr = jax.make_jaxpr(backward)(trained, variables, state.factors, rows, inputs, targets).jaxpr
    made = {var for eqn in jaxpr.eqns for var in eqn.outvars}
    sizes = {True: 0, False: 0}
    for var in made.intersection(v for v in jaxpr.outvars if not isinstance(v, jex.Literal)):
        sizes[jnp.issubdtype(var.aval.dtype, jnp.inexact)] += array_bytes(var.aval)
    inputs_kept = min(inputs_of(step), sizes[True])
    return dict(zip(_KEPT, (inputs_kept, sizes[False], sizes[True] - inputs_kept), strict=True))


def inputs_of(step: Step) -> int:
    """Bytes of the layers' inputs that are kept for the gradients, were they not decomposed."""
    examples = step.task.examples // step.setting.parts
    of_rows = sum(quota.rows * quota.cost.activation for quota in step.quotas.values())
    of_whole = sum(cost.channels * cost.activation for cost in step.task.kernels.values())
    return examples * (of_rows + of_whole) * step.task.itemsize


def taken(compiled: jax.stages.Compiled, tried: bool) -> StepBytes:
    """What an executable takes, by its arguments and what is in between.

    Args:
      compiled: the executable.
      tried: whether it may be run on zeros, in a process of its own; see `compiled_bytes`.
    """
    return compiled_bytes(compiled, (*ARGUMENTS, "batch"), tried)


def spent(step: Step, compiled: jax.stages.Compiled, tried: bool) -> dict[str, int]:
    """What the bytes of an executable of a step are spent on, by PARTS; they sum to all of them.

    Arguments are counted; of what is in between what is known of the backward pass is set against
    the peak, and the rest are transients.
    """
    found = taken(compiled, tried)
    parts = dict.fromkeys(PARTS, 0) | dict(found.arguments)
    left = found.total - sum(found.arguments.values()) - found.libraries
    for name, size in (before_compiling(step) | kept(step)).items():
        if name not in ARGUMENTS:
            parts[name] = min(left, size)
            left -= parts[name]
    return parts | {"transients": left, "libraries": found.libraries}
