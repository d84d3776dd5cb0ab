"""The objective of one mini-batch, its gradients, and how much they vary from example to example.

Which estimator of ||S||_1 is used is `config.batch.variance`: 'norms' (exact, from the backward
pass that runs anyway), 'vmap' (exact, keeps every example's gradient), 'micro' (of the means over
micro-batches, for models that mix the examples of a batch), 'none'; 'auto' takes 'norms' where
examples are independent, else 'micro' if the batch rule reads it and 'none' if not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax import gates as hard_concrete
from dynhp_jax import variance
from dynhp_jax.config import Config
from dynhp_jax.errors import ConfigError
from dynhp_jax.gating import gated
from dynhp_jax.groups import alive_positions
from dynhp_jax.jaxprs.trace import path_name
from dynhp_jax.network import Network

Array = jax.Array


class Fixed(NamedTuple):
    """What the objective reads and is not differentiated by."""

    variables: dict[str, Any]  # collections other than 'params'
    masks: dict[str, Array]
    prices: dict[str, Array]


class Found(NamedTuple):
    """What one mini-batch showed, beside its gradients.

    Attributes:
      loss, cross_entropy, penalty, grad_variance: f32[].
      wrong: i32[], misclassified examples.
      z: {group: [units] or [batch, units]}, the gates that were drawn.
      updates: collections that training updates (batch statistics).
    """

    loss: Array
    cross_entropy: Array
    penalty: Array
    grad_variance: Array
    wrong: Array
    z: dict[str, Array]
    updates: dict[str, Any]


def estimator(network: Network, config: Config) -> str:
    """'norms', 'vmap', 'micro' or 'none': what 'auto' stands for with this model and rule.

    Raises:
      ConfigError: an exact estimator for a model whose examples have no gradients of their own.
    """
    chosen, mixes = config.batch.variance, set(network.spec.shapes()) != {"params"}
    if mixes and chosen in ("norms", "vmap"):
        allowed = "'micro', 'auto' or 'none' for a model with batch normalisation"
        raise ConfigError("batch.variance", chosen, allowed)
    if chosen != "auto":
        return chosen
    if not mixes:
        return "norms"
    return "none" if config.batching.rule == "fixed" else "micro"


def make_gradients(network: Network, config: Config, examples: int) -> Callable:
    """The gradients of a mini-batch.

    Args:
      network: the model and its groups.
      config: the run.
      examples: N, the size of the training set, which the penalty is divided by.

    Returns:
      `gradients(trained, fixed, z_of, images, labels) -> (gradients, Found)`: `trained` is
      {'params', 'gates'}, as the gradients are; `z_of(gates)` draws the gates; images
      f32[batch, ...], labels i32[batch].
    """
    kind = estimator(network, config)
    apply = gated(network.train, network.groups)
    # The images go first: the first axis of the first input is the batch.
    probed = variance.probed(lambda variables, images, z: apply(variables, z, images))
    l2 = config.penalty.l2

    def cross_entropies(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # [batch]

    def price(params, gates, fixed):
        squares = squares_of(network, params, fixed.masks) if l2 else (None, 0.0)
        return hard_concrete.penalty(
            gates,
            fixed.prices,
            fixed.masks,
            config.penalty.lam,
            examples,
            config.penalty.convention,
            l2,
            *squares,
        )

    def objective(trained, probe, fixed, z_of, images, labels):
        z = z_of(trained["gates"])
        variables = {**fixed.variables, "params": trained["params"]}
        if kind == "norms":
            logits, updates = probed(variables, probe, images, z)
        else:
            logits, updates = apply(variables, z, images)
        cross_entropy = jnp.mean(cross_entropies(logits, labels))
        penalty = price(trained["params"], trained["gates"], fixed)
        wrong = jnp.sum(jnp.argmax(logits, -1) != labels)
        loss, zero = cross_entropy + penalty, jnp.zeros((), jnp.float32)
        return loss, Found(loss, cross_entropy, penalty, zero, wrong, z, updates)

    differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)

    def whole_batch(trained, fixed, z_of, images, labels):
        probe = jnp.zeros(len(labels), jnp.float32)
        (grads, of_probe), found = differentiate(trained, probe, fixed, z_of, images, labels)
        if kind == "norms":
            mean = grads["params"]
            if l2:  # the same for every example, so no part of how they differ
                same = jax.grad(price)(trained["params"], trained["gates"], fixed)
                mean = jax.tree.map(jnp.subtract, mean, same)
            found = found._replace(grad_variance=variance.of_probe(of_probe, mean))
        elif kind == "vmap":
            found = found._replace(grad_variance=by_vmap(trained, fixed, found.z, images, labels))
        return grads, found

    def by_vmap(trained, fixed, z, images, labels):
        """||S||_1 from every example's own gradient."""

        def loss(params, image, label, own):
            gates = {name: gate[None] for name, gate in own.items()} if own else z
            logits, _ = apply({**fixed.variables, "params": params}, gates, image[None])
            return cross_entropies(logits, label[None])[0]

        own = z if config.gates.per_example else {}
        return variance.per_example(loss, trained["params"], images, labels, own)[0]

    def by_micro_batches(trained, fixed, z_of, images, labels):
        """The mean gradient of equal parts, one after the other; batch statistics go along."""
        parts = config.batch.micro_batches
        size = len(labels) // parts
        z = z_of(trained["gates"])

        def part(statistics, k):
            def rows(array):
                return jax.lax.dynamic_slice_in_dim(array, k * size, size)

            def z_of_part(gates):
                drawn = z_of(gates)
                return jax.tree.map(rows, drawn) if config.gates.per_example else drawn

            now = fixed._replace(variables=statistics)
            probe = jnp.zeros(size, jnp.float32)
            (grads, _), found = differentiate(
                trained, probe, now, z_of_part, rows(images), rows(labels)
            )
            statistics = {**statistics, **found.updates}
            return statistics, (grads, found._replace(z={}, updates={}))

        statistics, (grads, found) = jax.lax.scan(part, fixed.variables, jnp.arange(parts))
        spread = variance.of_micro_batches(grads["params"], size)
        means = jax.tree.map(lambda leaf: leaf.mean(0), found)
        grads = jax.tree.map(lambda leaf: leaf.mean(0), grads)
        wrong = found.wrong.sum()
        return grads, means._replace(grad_variance=spread, wrong=wrong, z=z, updates=statistics)

    return by_micro_batches if kind == "micro" else whole_batch


def squares_of(network: Network, params: Any, alive: dict[str, Array]) -> tuple[dict, Array]:
    """What the L2 term of the penalty weighs, dead units left out.

    Returns:
      ({group: f32[units], sum of squares of the weights that read each unit}, sum of squares of
      all other parameters: biases, and weights that read nothing gated).
    """
    groups, read = network.groups, {}
    other = jnp.zeros(())
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params}):
        path, squares = path_name(path), jnp.square(leaf)
        for axis in range(leaf.ndim):
            there = alive_positions(groups, path, axis, alive)
            squares = squares * jnp.expand_dims(there, [d for d in range(leaf.ndim) if d != axis])
        readers = [(g.name, m) for g in groups.values() for m in g.members
                   if m.path == path and m.role == "in"]  # fmt: skip
        for name, member in readers:
            by_position = jnp.sum(squares, [d for d in range(leaf.ndim) if d != member.axis])
            read[name] = read.get(name, 0.0) + jnp.sum(by_position[member.index], axis=1)
        if not readers:
            other = other + jnp.sum(squares)
    return read, other
