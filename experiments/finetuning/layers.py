"""Which layers rows are chosen from: by the norms of their gradients, found once for a track."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax import finetune
from dynhp_jax.finetune.methods.selection import kernel_norms
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.run import examples
from dynhp_jax.training.run.trainer import Trainer

EXAMPLES = 2_000  # of the epoch in which norms are found


def costs_of(network: Network) -> Mapping[str, finetune.Cost]:
    """Of all kernels."""
    example = batch_of(network.model.example, 2)
    return finetune.channel_costs(network.evaluate, network.model.shapes(), example)


def norms(trainer: Trainer) -> dict[str, list[float]]:
    """path -> the norm of each row's gradient, summed over the steps of an epoch of full training.

    The norm is that of the epoch's summed gradient (TraDy says: accumulated). Plain SGD, on
    training examples alone.
    """
    network, config = trainer.whole, trainer.config
    costs, tx = costs_of(network), optax.sgd(config.optimizer.learning_rate)
    quotas = {path: finetune.Quota(cost.channels, cost) for path, cost in costs.items()}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, sums: Any, inputs: Any, targets: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            outputs = network.evaluate({"params": params}, inputs)
            return network.task.loss(outputs, targets).mean()

        gradients = jax.grad(loss)(params)
        updates, _ = tx.update(gradients, tx.init(params))
        return optax.apply_updates(params, updates), jax.tree.map(jnp.add, sums, gradients)

    params = jax.tree.map(jnp.array, network.given["params"])
    sums, size = jax.tree.map(jnp.zeros_like, params), config.batching.size
    train = examples.fitted(trainer.dataset.splits["train"].first(EXAMPLES), network)
    for part in train.chunks(np.random.default_rng(0).permutation(len(train)), size):
        if len(part) == size:
            params, sums = step(params, sums, part.inputs, part.targets)
    found = kernel_norms({"params": sums}, quotas)
    return {path: np.asarray(each, float).round(9).tolist() for path, each in found.items()}


def ranked(
    norms: Mapping[str, list[float]], network: Network, rule: str, budget: int
) -> tuple[str, ...]:
    """The kept layers, in the order of execution."""
    costs = costs_of(network)
    head = list(costs)[-1]
    rest = {path: each for path, each in norms.items() if path != head}
    best = finetune.rank_layers(rest, costs, rule, budget=budget if rule == "lara" else None)
    return tuple(path for path in costs if path in best)
