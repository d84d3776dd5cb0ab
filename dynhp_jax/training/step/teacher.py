"""Learning from the run's own mean: its outputs beside the labels.

The teacher is the network that is evaluated, `TrainState.averages`, with its gates at their
deterministic values and the inputs without noise. So it has the student's size and needs no memory
beyond the mean.

Sources: Hinton, Vinyals and Dean 2015 (1503.02531), section 2 (temperature, and the factor T^2);
Tarvainen and Valpola 2017 (1703.01780) for a mean of the student as the teacher.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import weight_mean
from dynhp_jax.training.step.weight_mean import Averages

Array = jax.Array


def make_teach(network: Network) -> Callable:
    """`teach(averages, masks, own, images) -> f32[batch, classes]`: the teacher's logits."""
    apply = network.extension.evaluation(gated(network.evaluate, network.groups))

    def teach(averages: Averages, masks: dict[str, Array], own: Any, images: Array) -> Array:
        z = {name: masks[name] * hard_concrete.mean(gate) for name, gate in averages.gates.items()}
        own = weight_mean.evaluated(averages, own)
        return jax.lax.stop_gradient(apply(averages.variables, own, z, images))

    return teach


def distillation_losses(
    logits: Array, labels: Array, teacher: Array | None, weight: Array, temperature: float
) -> Array:
    """f32[batch]: each example's own loss, so that gradients of examples stay independent.

    (1 - w) CE(label) + w T^2 KL(teacher / T || student / T); plain cross-entropy without a teacher.

    Args:
      logits: f32[batch, classes], of the student.
      labels: i32[batch].
      teacher: f32[batch, classes], its logits; or None.
      weight: f32[], w, from 0 to 1.
      temperature: T, above 0.
    """
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if teacher is None:
        return plain
    wanted = jax.nn.log_softmax(teacher / temperature)
    found = jax.nn.log_softmax(logits / temperature)
    apart = jnp.sum(jnp.exp(wanted) * (wanted - found), axis=-1)
    return (1 - weight) * plain + weight * temperature**2 * apart
