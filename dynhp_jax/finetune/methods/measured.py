"""Norms of gradients by row, measured on a copy that is trained whole for some epochs.

That is how the papers rank layers (TraDy, 2510.19675; MeDyate, 2510.20979): once, before anything
is saved, so that it takes the bytes of full fine-tuning while it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common import byte_sizes, notices
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import row_norms
from dynhp_jax.finetune.rows import every_row, take_rows
from dynhp_jax.memory.compiled import compiled_bytes
from dynhp_jax.training.extension import EpochStart

_LABELS = ("parameters", "optimizer", "gradients", "batch", "batch")


def measured_norms(
    variables: Any, start: EpochStart, costs: Mapping[Path, Cost], epochs: int
) -> dict[Path, np.ndarray]:
    """path -> f[channels]: the sum over epochs of the norm of each epoch's mean gradient.

    The copy is trained by the run's optimizer, in mini-batches of the run's size, on the examples
    that it may look at (`scores.examples`), in another order in each epoch.

    Args:
      variables: of the model; they stay as they are.
      start: of the epoch.
      costs: of the kernels.
      epochs: how many.
    """
    examples = len(start.examples)
    batch = min(start.batch, examples)
    params, kept = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, inputs: Any, targets: Any) -> Any:
        return jnp.mean(start.loss(start.apply({**kept, "params": params}, inputs), targets))

    @jax.jit
    def step(params: Any, opt_state: Any, total: Any, inputs: Any, targets: Any) -> tuple:
        gradients = jax.grad(loss)(params, inputs, targets)
        passed_on = {"params": gradients, "gates": jax.tree.map(jnp.zeros_like, start.gates)}
        change, opt_state = start.tx.update(
            passed_on, opt_state, {"params": params, "gates": start.gates}
        )
        params = optax.apply_updates(params, change["params"])
        return params, opt_state, jax.tree.map(jnp.add, total, gradients)

    rows = {path: every_row(cost.layout) for path, cost in costs.items()}
    norms_of = jax.jit(lambda total: row_norms(take_rows({"params": total}, rows), rows))
    opt_state = start.tx.init({"params": params, "gates": start.gates})
    total, first = jax.tree.map(jnp.zeros_like, params), start.examples.first(batch)
    step = step.lower(params, opt_state, total, first.inputs, first.targets).compile()
    taken = compiled_bytes(step, _LABELS, tried=False).total
    notices.warn(
        f"layers are ranked on a copy that is trained whole: {byte_sizes.kib(taken, up=True)} for"
        f" its steps beside the run, in {epochs} epoch{'s' if epochs > 1 else ''} before the first"
    )
    norms = {path: np.zeros(each.index.shape) for path, each in rows.items()}
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(start.key, epoch), examples))
        total, steps = jax.tree.map(jnp.zeros_like, params), examples // batch
        for seen in start.examples.chunks(order[: steps * batch], batch):
            params, opt_state, total = step(params, opt_state, total, seen.inputs, seen.targets)
        for path, each in jax.device_get(norms_of(total)).items():
            norms[path] += each.astype(np.float64) / steps
    return norms
