"""Evaluation of a split: sums of the loss and of the task's metrics, and the confusion matrix."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import devices

LOSS, CONFUSION = "loss", "confusion"  # beside the names of metrics


def added_up(chunks: Sequence[Any]) -> Any:
    """The sums over all chunks of a split, on the host."""
    return jax.tree.map(lambda *parts: sum(parts), *jax.device_get(chunks))


def make_evaluation(network: Network, chunk: int, asked: int = 1) -> Callable:
    """`evaluate(variables, gates, masks, own, inputs, targets, i, count) -> sums`, jitted.

    Of examples i * chunk to (i + 1) * chunk, as far as there are so many: of the first `count`,
    i32[]. `sums` are {'loss': f32[], 'metrics': {name: sums}}, and of a classification
    'confusion', i32[classes, classes], labels by row and predictions by column. Gates have their
    deterministic values. A chunk is spread over the devices that `config.devices` asks for, which
    divide it. `own` is what the network's extension keeps, () without one.
    """
    spread, task = devices.spreading(asked), network.task
    apply = network.extension.evaluation(gated(network.evaluate, network.groups))

    def evaluate(variables, gates, masks, own, inputs, targets, i, count):
        z = {name: masks[name] * hard_concrete.mean(value) for name, value in gates.items()}
        rows = i * chunk + jnp.arange(chunk)
        weight = rows < count
        rows = jnp.minimum(rows, count - 1)
        here, truth = spread(jax.tree.map(lambda leaf: leaf[rows], (inputs, targets)))
        outputs = apply(variables, own, z, here)
        losses = task.loss(outputs, truth)
        sums: dict[str, Any] = {
            LOSS: jnp.sum(jnp.where(weight, losses, 0.0)),
            "metrics": task.sums(outputs, truth, weight),
        }
        if task.classes:
            hits = (truth, jnp.argmax(outputs, -1))
            matrix = jnp.zeros((task.classes, task.classes), jnp.int32)
            sums[CONFUSION] = matrix.at[hits].add(weight.astype(jnp.int32))
        return sums

    return devices.jitted(evaluate, asked)
