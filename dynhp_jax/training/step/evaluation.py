"""Evaluation of a split: the confusion matrix and the loss."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import devices


def make_evaluation(network: Network, chunk: int, over: int = 1) -> Callable:
    """`evaluate(variables, gates, masks, images, labels, i) -> (confusion, loss)`, jitted.

    Examples i * chunk to (i + 1) * chunk: `confusion` is i32[classes, classes], labels by row and
    predictions by column; `loss` the sum of the cross-entropies. The last chunk is padded, and what
    was padded weighs nothing, as do examples with a label of -1. Gates have their deterministic
    values. A chunk is spread `over` so many devices, which divide it.
    """
    spread = devices.spreading(over)
    apply = gated(network.evaluate, network.groups)
    classes = network.spec.num_classes

    def evaluate(variables, gates, masks, images, labels, i):
        z = {name: masks[name] * hard_concrete.mean(value) for name, value in gates.items()}
        rows = i * chunk + jnp.arange(chunk)
        inside = rows < len(labels)
        rows = jnp.minimum(rows, len(labels) - 1)
        here, truth = spread((images[rows], labels[rows]))
        weight = inside & (truth >= 0)
        logits = apply(variables, z, here)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, truth)
        hits = (truth, jnp.argmax(logits, -1))
        confusion = jnp.zeros((classes, classes), jnp.int32).at[hits].add(weight.astype(jnp.int32))
        return confusion, jnp.sum(jnp.where(weight, losses, 0.0))

    return devices.jitted(evaluate, over)
