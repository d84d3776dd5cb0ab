"""The gradients of one mini-batch, part by part: what is kept of the parts, and their variance.

Equal parts, one after the other, with batch statistics that go along: all gradients of the parts
are kept where their spread is what is looked for, sums of them where memory is what is short.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.batch_size import variance
from dynhp_jax.training.step import devices
from dynhp_jax.training.step.objective import BatchResult, Constants, Examples, Objective


def accumulate_means(gradients: Callable, objective: Objective, parts: int) -> Callable:
    """The mean gradient, and the variance from those of equal parts.

    Args:
      gradients: `gradients(trained, fixed, z_of, batch) -> (gradients, BatchResult)` of a part.
      objective: what they are of.
      parts: how many.

    Returns:
      The same function of whole mini-batches.
    """

    def whole(trained, fixed, z_of, batch):
        # Convolutions are slow in a loop on a CPU. `of_sums`, for short memory, loops all the same.
        _, grads, found = _in_parts(
            gradients, objective, parts, lambda sums, grads, _: (sums, grads), (),
            trained, fixed, z_of, batch,
            unroll=parts if objective.network.slow_in_loops else 1,
        )  # fmt: skip
        spread = variance.of_micro_batches(grads["params"], len(batch.rows) // parts)
        grads = jax.tree.map(lambda leaf: leaf.mean(0), grads)
        return grads, found._replace(grad_variance=spread)

    return whole


def accumulate_sums(gradients: Callable, objective: Objective, kind: str, parts: int) -> Callable:
    """The mean gradient, of which only sums are kept, as is of what the variance needs.

    Args:
      gradients, objective, parts: as for `accumulate_means`.
      kind: what `gradients.estimator` says.

    Returns:
      The same function of whole mini-batches.
    """

    def whole(trained, fixed, z_of, batch):
        def of_part(sums, grads, found):
            total, squares = sums
            # Of examples within the part, or of the part's own mean; either way mean squares.
            squares = squares + found.grad_variance + variance.squared_norm(grads["params"])
            return (jax.tree.map(jnp.add, total, grads), squares), ()

        start = (jax.tree.map(jnp.zeros_like, trained), jnp.zeros((), jnp.float32))
        (total, squares), _, found = _in_parts(
            gradients, objective, parts, of_part, start, trained, fixed, z_of, batch
        )
        grads = jax.tree.map(lambda leaf: leaf / parts, total)
        # The difference of two sums that are nearly the same may round to less than 0.
        spread = jnp.maximum(squares / parts - variance.squared_norm(grads["params"]), 0.0)
        if kind == "micro":
            size = len(batch.rows) // parts
            spread = spread * size * parts / (parts - 1)
        elif kind == "none":
            spread = jnp.zeros((), jnp.float32)
        return grads, found._replace(grad_variance=spread)

    return whole


def _in_parts(
    gradients: Callable,
    objective: Objective,
    parts: int,
    of_part: Callable,
    start: Any,
    trained: dict[str, Any],
    fixed: Constants,
    z_of: Callable,
    batch: Examples,
    unroll: int = 1,
) -> tuple[Any, Any, BatchResult]:
    """`of_part` of equal parts, one after the other; batch statistics go along.

    `of_part(sums, gradients, found) -> (sums, kept)` is told what each part gave, from `start`
    on. Returns the last sums, what was kept of each part, and the batch's `BatchResult`.
    """
    size, config = len(batch.rows) // parts, objective.config
    spread, z = devices.spreading(config.devices), z_of(trained["gates"])

    def part(carry, k):
        def z_of_part(gates):
            drawn = z_of(gates)
            if not config.gates.per_example:
                return drawn
            return {
                name: spread(jax.lax.dynamic_slice_in_dim(gate, k * size, size))
                for name, gate in drawn.items()
            }

        statistics, sums = carry
        key = jax.random.fold_in(fixed.key, k) if objective.network.model.draws else ()
        now = fixed._replace(variables=statistics, key=key)
        grads, found = gradients(trained, now, z_of_part, batch.part(k, size))
        sums, kept = of_part(sums, grads, found)
        return ({**statistics, **found.updates}, sums), (kept, found._replace(z={}, updates={}))

    statistics = {**fixed.variables, **objective.extension.passed_on(fixed.own)}
    (statistics, sums), (kept, found) = jax.lax.scan(
        part, (statistics, start), jnp.arange(parts), unroll=unroll
    )
    metrics = jax.tree.map(lambda leaf: leaf.sum(0), found.metrics)
    found = jax.tree.map(lambda leaf: leaf.mean(0), found)
    return sums, kept, found._replace(metrics=metrics, z=z, updates=statistics)
