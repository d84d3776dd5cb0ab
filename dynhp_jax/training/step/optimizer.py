"""The optimizer of a run, from its options."""

import functools

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.training.config import Config
from dynhp_jax.training.step.savings import NOTHING, Savings


def make_optimizer(
    config: Config, savings: Savings = NOTHING, own: optax.GradientTransformation | None = None
) -> optax.GradientTransformation:
    """The optax transformation of a run, over {'params': ..., 'gates': ...}.

    With the step size that schedules multiply: its updates are proportional to it.

    Args:
      config: names it, and gives the step size of the gates.
      savings: what it does without, to take less memory.
      own: of the parameters, instead of the one that the config names; gates then have Adam.
    """
    if own is not None:
        of_gates = optax.adam(config.gates.learning_rate or config.optimizer.learning_rate)
        return optax.partition(
            {"params": own, "gates": of_gates}, {"params": "params", "gates": "gates"}
        )
    rate = config.optimizer.learning_rate
    moment = jnp.bfloat16 if savings.bf16_moments else None
    if config.optimizer.name == "adam":
        tx = optax.adam(rate, mu_dtype=moment)
    else:
        momentum = 0.9 if config.optimizer.name == "momentum" else None
        tx = optax.sgd(rate, momentum, accumulator_dtype=moment)
    parts = [tx]
    if config.gates.learning_rate:
        # Updates are proportional to the step size, so that the gates' may be another.
        factor = config.gates.learning_rate / rate

        def faster(updates, params):
            return {**updates, "gates": jax.tree.map(lambda u: factor * u, updates["gates"])}

        parts.append(optax.stateless(faster))
    if config.optimizer.weight_decay:
        # Loshchilov and Hutter 2019 (1711.05101): beside the gradient, not through its moments.
        kernels = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        decay = rate * config.optimizer.weight_decay
        parts.append(optax.add_decayed_weights(-decay, kernels))
    return optax.chain(*parts) if len(parts) > 1 else tx
