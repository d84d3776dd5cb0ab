"""The gradients of one mini-batch, and how much they vary from example to example.

Which estimator of ||S||_1 is used is `config.batch.variance`: 'norms' (exact, from the backward
pass that runs anyway), 'vmap' (exact, keeps every example's gradient), 'micro' (of the means over
micro-batches, for models that mix the examples of a batch), 'none'; 'auto' takes 'norms' where
examples are independent and the backward pass has their norms, else 'micro' if the batch rule reads
it and 'none' if not.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.batch_size import variance
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.gates.gated import gated
from dynhp_jax.models.spec import Spec
from dynhp_jax.training.config import Config
from dynhp_jax.training.extension import replaces_trained
from dynhp_jax.training.network import Network, batch_of
from dynhp_jax.training.step import accumulation, devices
from dynhp_jax.training.step.objective import BatchResult, Constants, Examples, Objective, Targets
from dynhp_jax.training.step.setup import Setup
from dynhp_jax.training.step.teacher import make_teach

Array = jax.Array


def estimator(network: Network, config: Config) -> str:
    """'norms', 'vmap', 'micro' or 'none': what 'auto' stands for with this model and rule.

    Raises:
      ConfigError: an exact estimator for a model whose examples have no gradients of their own, or
        norms of other arrays than the parameters.
    """
    chosen, mixes = config.batch.variance, set(network.model.shapes()) != {"params"}
    if mixes and chosen in ("norms", "vmap"):
        allowed = "'micro', 'auto' or 'none' for a model with batch normalisation"
        raise ConfigError("batch.variance", chosen, allowed)
    others = replaces_trained(network.unbound)
    if others and chosen == "norms":
        allowed = "'vmap', 'micro', 'auto' or 'none' where an extension trains other arrays"
        raise ConfigError("batch.variance", chosen, allowed)
    if chosen != "auto":
        return chosen
    if not mixes and not others and _has_norms(network):
        return "norms"
    return "none" if config.batching.rule == "fixed" else "micro"


@functools.lru_cache(maxsize=16)
def _has_norms(network: Network) -> bool:
    """Whether the backward pass has the norm of every example's gradient; see `batch_size.probed`.

    Of the shipped models without batch normalisation it always has.
    """
    model, examples = network.model, 2
    if isinstance(model, Spec):
        return True
    apply = gated(network.train, network.groups)
    with_probe = variance.probed(lambda variables, x, z, key: apply(variables, z, x, key))
    z = {name: jnp.ones(group.size) for name, group in network.groups.items()}
    key, probe = jax.random.key(0) if model.draws else (), jnp.zeros(examples)
    try:
        jax.eval_shape(with_probe, model.shapes(), probe, batch_of(model.example, examples), z, key)
    except ValueError:
        return False
    return True


def make_gradients(setup: Setup) -> Callable:
    """The gradients of a mini-batch.

    Returns:
      `gradients(trained, fixed, z_of, batch) -> (gradients, BatchResult)`: `trained` is
      {'params', 'gates'}, as the gradients are; `z_of(gates)` draws the gates;
      `batch` is the `Examples` of a mini-batch.
    """
    kind = estimator(setup.network, setup.config)
    objective, parts = Objective(setup), setup.savings.parts
    of_examples = _at_once(objective, kind)
    if parts > 1:
        of_examples = accumulation.accumulate_sums(of_examples, objective, kind, parts)
    elif kind == "micro":
        of_examples = accumulation.accumulate_means(
            of_examples, objective, setup.config.batch.micro_batches
        )

    def gradients(
        trained: dict[str, Any], fixed: Constants, z_of: Callable, batch: Examples
    ) -> tuple[dict[str, Any], BatchResult]:
        grads, found = of_examples(trained, fixed, z_of, batch)
        penalty, more = jax.value_and_grad(objective.penalty)(trained, fixed)
        return jax.tree.map(jnp.add, grads, more), found._replace(penalty=penalty)

    return gradients


def _at_once(objective: Objective, kind: str) -> Callable:
    """Of the mean loss of all examples of a mini-batch, side by side."""
    config = objective.config
    differentiate = jax.grad(objective.mean_loss, argnums=(0, 1), has_aux=True)
    spread = devices.spreading(config.devices)
    teach = None
    if config.distillation.weight:
        teach = make_teach(objective.network)

    def gradients(
        trained: dict[str, Any], fixed: Constants, z_of: Callable, batch: Examples
    ) -> tuple[dict[str, Any], BatchResult]:
        inputs, targets = spread(batch.gathered())
        teacher = None
        if teach:
            teacher = teach(fixed.averages, fixed.masks, fixed.own, spread(batch.clean()))
        truth = Targets(targets, teacher)
        probe = spread(jnp.zeros(len(batch.rows), jnp.float32)) if kind == "norms" else None
        (grads, of_probe), found = differentiate(
            trained, probe, fixed, z_of, inputs, truth, batch.valid
        )
        if kind == "norms":
            size = variance.of_probe(of_probe, grads["params"], batch.count)
        elif kind == "vmap":
            size = _by_vmap(objective, trained, fixed, found.z, inputs, truth)
        else:
            return grads, found
        return grads, found._replace(grad_variance=size)

    return gradients


def _by_vmap(
    objective: Objective,
    trained: dict[str, Any],
    fixed: Constants,
    z: dict[str, Array],
    inputs: Any,
    truth: Targets,
) -> Array:
    """||S||_1 from every example's own gradient."""

    def loss(arrays, example, truth, drawn):
        gates = {name: gate[None] for name, gate in drawn.items()} if drawn else z
        example, truth = jax.tree.map(lambda leaf: leaf[None], (example, truth))
        variables = {**fixed.variables, "params": fixed.params}
        outputs, _ = objective.apply(variables, arrays, fixed.own, gates, example, fixed.key)
        return objective.losses(outputs, truth, fixed)[0]

    drawn = z if objective.config.gates.per_example else {}
    return variance.per_example(loss, trained["params"], inputs, truth, drawn)[0]
