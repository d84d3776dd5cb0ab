"""Bytes of a compiled step of fine-tuning, by what holds them, and the forward pass below them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.finetune.costs import channel_costs
from dynhp_jax.finetune.methods.leaves import WHOLE
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.run.trainer import Trainer

PARTS = ("parameters", "optimizer", "other state", "gradients", "floats kept", "masks kept",
         "transients")  # fmt: skip
FORWARD = "forward"  # of the floor: no step, so that it has but the forward pass's temporaries


def bytes_of(trainer: Trainer, network: Network) -> dict[str, int]:
    """Bytes of the training step of a run by PARTS, and 'temporaries', which the last four sum to.

    The mini-batch is left out: it is the same for all methods. What the backward pass keeps is read
    from its trace, and set against the temporaries of the executable in the order of PARTS.

    Args:
      trainer: of the run.
      network: whose sizes are those of the step; some methods decide them in the run.
    """
    batch = trainer.config.batching.size
    found = trainer.steps.training_bytes(network, batch)
    state = trainer.steps.state_shapes(network)
    trained = jax.eval_shape(network.extension.trained, state.variables, state.own)
    left = found["temporaries"]
    parts = {
        "parameters": found["params"],
        "optimizer": found["optimizer"],
        "other state": found["statistics"] + found["gates"],
        "temporaries": left,
    }
    kept = kept_bytes(trainer, network, batch)
    for name, size in {"gradients": array_bytes(trained), **kept}.items():
        parts[name] = min(left, size)
        left -= parts[name]
    return parts | {"transients": left}


def kept_bytes(trainer: Trainer, network: Network, batch: int) -> dict[str, int]:
    """Bytes of 'floats kept' and 'masks kept' for the backward pass; traced, not compiled."""
    state = trainer.steps.state_shapes(network)
    forward = network.extension.forward(lambda variables, *rest: network.train(variables, *rest))

    def backward(trained: Any, variables: Any, own: Any, inputs: Any) -> Any:
        return jax.vjp(lambda trained: forward(variables, trained, own, inputs)[0], trained)[1]

    trained = jax.eval_shape(network.extension.trained, state.variables, state.own)
    given = trained, state.variables, state.own, batch_of(network.model.example, batch)
    jaxpr = jax.make_jaxpr(backward)(*given).jaxpr
    made = {var for eqn in jaxpr.eqns for var in eqn.outvars}
    outputs = {var for var in jaxpr.outvars if not isinstance(var, jax.extend.core.Literal)}
    sizes = {"floats kept": 0, "masks kept": 0}
    for var in made & outputs:
        floats = jnp.issubdtype(var.aval.dtype, jnp.inexact)
        sizes["floats kept" if floats else "masks kept"] += array_bytes(var.aval)
    return sizes


def forward_bytes(trainer: Trainer) -> int:
    """Temporaries of a step that only goes forward: the floor."""
    network, batch = trainer.whole, trainer.config.batching.size

    def loss(variables: Any, inputs: Any, targets: Any) -> jax.Array:
        return network.task.loss(network.evaluate(variables, inputs), targets).mean()

    shapes = batch_of(network.model.example, batch), batch_of(network.target, batch)
    compiled = jax.jit(loss).lower(network.model.shapes(), *shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def papers_count(trainer: Trainer, network: Network) -> int | None:
    """Weights and stored activations of one example, as the papers count; without the head.

    None of a method of which the papers have no count.
    """
    extension = network.extension
    if hasattr(extension, "quotas"):
        return int(sum(quota.numbers for quota in extension.quotas.values()))
    if not hasattr(extension, "parameters"):
        return None
    costs = channel_costs(
        network.evaluate, network.model.shapes(), batch_of(network.model.example, 2)
    )
    head = list(costs)[-1]
    whole = set(extension.whole)
    of_kernels = sum(cost.total for path, cost in costs.items() if path in whole - {head})
    adapted = getattr(extension, "axes", {})
    stored = sum(costs[path].channels * costs[path].activation for path in adapted)
    state = trainer.steps.state_shapes(network)
    trained = jax.eval_shape(extension.trained, state.variables, state.own)
    factors = sum(
        int(np.prod(leaf.shape))
        for name, tree in trained.items()
        if name != WHOLE
        for leaf in jax.tree.leaves(tree)
    )
    return int(of_kernels + stored + factors)
