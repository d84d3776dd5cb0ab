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

from dynhp_jax import devices, distilling, variance
from dynhp_jax import gates as hard_concrete
from dynhp_jax.averaging import Averages
from dynhp_jax.config import Config
from dynhp_jax.errors import ConfigError
from dynhp_jax.gating import gated
from dynhp_jax.groups import alive_positions
from dynhp_jax.jaxprs.trace import path_name
from dynhp_jax.network import Network
from dynhp_jax.savings import NOTHING, Savings

Array = jax.Array


class Fixed(NamedTuple):
    """What the objective reads and is not differentiated by."""

    variables: dict[str, Any]  # collections other than 'params'
    masks: dict[str, Array]
    prices: dict[str, Array]
    lam: Array
    averages: Averages | tuple[()] = ()  # the teacher, where there is one
    teaching: Array | float = 0.0  # f32[], its share of the loss


class Truth(NamedTuple):
    """What the outputs for examples are held against."""

    labels: Array  # i32[batch]
    teacher: Array | None  # f32[batch, classes], its logits


class Examples(NamedTuple):
    """A mini-batch that is gathered from its split only where it is used.

    Attributes:
      images, labels: of the whole split, f32[examples, ...] and i32[examples].
      rows: i32[batch], which of them.
      count: i32[], how many of the rows are the mini-batch's, the first ones; None for all. What
        the others are does not matter.
      first: i32[], the place of the first row in the mini-batch, where these are a part of one.
      perturb: `perturb(images, first) -> images`, what training does to them; None for nothing.
    """

    images: Array
    labels: Array
    rows: Array
    count: Array | None = None
    first: Array | int = 0
    perturb: Callable | None = None

    def gathered(self) -> tuple[Array, Array]:
        """images f32[batch, ...], labels i32[batch]."""
        images = self.clean()
        if self.perturb is not None:
            images = self.perturb(images, self.first)
        return images, self.labels[self.rows]

    def clean(self) -> Array:
        """images f32[batch, ...], as they are in the split."""
        return self.images[self.rows]

    @property
    def valid(self) -> Array | None:
        """bool[batch]: which rows are the mini-batch's; None for all."""
        return None if self.count is None else jnp.arange(len(self.rows)) < self.count

    def part(self, k: Array, size: int) -> "Examples":
        """The k-th `size` examples."""
        rows = jax.lax.dynamic_slice_in_dim(self.rows, k * size, size)
        return self._replace(rows=rows, first=self.first + k * size)


class Found(NamedTuple):
    """What one mini-batch showed, beside its gradients.

    Attributes:
      loss, cross_entropy, penalty, grad_variance: f32[]; with a teacher its part is in the
        cross-entropy (and so in F of the batch rule, as it is in ||S||_1).
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


def make_gradients(
    network: Network, config: Config, examples: int, savings: Savings = NOTHING
) -> Callable:
    """The gradients of a mini-batch.

    Args:
      network: the model and its groups.
      config: the run.
      examples: N, the size of the training set, which the penalty is divided by.
      savings: what it does without, to take less memory.

    Returns:
      `gradients(trained, fixed, z_of, batch) -> (gradients, Found)`: `trained` is
      {'params', 'gates'}, as the gradients are; `z_of(gates)` draws the gates;
      `batch` is the `Examples` of a mini-batch.
    """
    kind = estimator(network, config)
    apply = gated(network.train, network.groups)
    # The images go first: the first axis of the first input is the batch.
    probed = variance.probed(lambda variables, images, z: apply(variables, z, images))
    if savings.remat:
        apply, probed = (jax.checkpoint(f, policy=_products) for f in (apply, probed))
    l2, spread = config.penalty.l2, devices.spreading(config.devices)

    teach = distilling.make_teach(network) if config.distillation.weight else None

    def losses_of(logits, truth, fixed):
        temperature = config.distillation.temperature
        return distilling.losses(logits, *truth, fixed.teaching, temperature)  # [batch]

    def price(params, gates, fixed):
        squares = squares_of(network, params, fixed.masks) if l2 else (None, 0.0)
        return hard_concrete.penalty(
            gates,
            fixed.prices,
            fixed.masks,
            fixed.lam,
            examples,
            config.penalty.convention,
            l2,
            *squares,
        )

    def objective(trained, probe, fixed, z_of, images, truth, valid):
        z = z_of(trained["gates"])
        variables = {**fixed.variables, "params": trained["params"]}
        if kind == "norms":
            logits, updates = probed(variables, probe, images, z)
        else:
            logits, updates = apply(variables, z, images)
        losses, wrong = losses_of(logits, truth, fixed), jnp.argmax(logits, -1) != truth.labels
        if valid is None:
            cross_entropy, wrong = jnp.mean(losses), jnp.sum(wrong)
        else:
            cross_entropy = jnp.sum(jnp.where(valid, losses, 0.0)) / jnp.sum(valid)
            wrong = jnp.sum(wrong & valid)
        penalty = price(trained["params"], trained["gates"], fixed)
        loss, zero = cross_entropy + penalty, jnp.zeros((), jnp.float32)
        return loss, Found(loss, cross_entropy, penalty, zero, wrong, z, updates)

    differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)

    def whole_batch(trained, fixed, z_of, batch):
        images, labels = spread(batch.gathered())
        teacher = teach(fixed.averages, fixed.masks, spread(batch.clean())) if teach else None
        truth = Truth(labels, teacher)
        probe = spread(jnp.zeros(len(labels), jnp.float32))
        (grads, of_probe), found = differentiate(
            trained, probe, fixed, z_of, images, truth, batch.valid
        )
        if kind == "norms":
            mean = loss_gradient(grads, trained, fixed)
            found = found._replace(grad_variance=variance.of_probe(of_probe, mean, batch.count))
        elif kind == "vmap":
            found = found._replace(grad_variance=by_vmap(trained, fixed, found.z, images, truth))
        return grads, found

    def loss_gradient(grads, trained, fixed):
        """Of the mean loss alone: the penalty's is the same for every example."""
        if not l2:
            return grads["params"]
        same = jax.grad(price)(trained["params"], trained["gates"], fixed)
        return jax.tree.map(jnp.subtract, grads["params"], same)

    def by_vmap(trained, fixed, z, images, truth):
        """||S||_1 from every example's own gradient."""

        def loss(params, image, truth, own):
            gates = {name: gate[None] for name, gate in own.items()} if own else z
            logits, _ = apply({**fixed.variables, "params": params}, gates, image[None])
            return losses_of(logits, jax.tree.map(lambda leaf: leaf[None], truth), fixed)[0]

        own = z if config.gates.per_example else {}
        return variance.per_example(loss, trained["params"], images, truth, own)[0]

    def in_parts(parts, of_part, start, trained, fixed, z_of, batch, unroll=1):
        """`of_part` of equal parts, one after the other; batch statistics go along.

        `of_part(sums, gradients, found) -> (sums, kept)` is told what each part gave, from
        `start` on. Returns the last sums, what was kept of each part, and the batch's `Found`.
        """
        size = len(batch.rows) // parts
        z = z_of(trained["gates"])

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
            now = fixed._replace(variables=statistics)
            grads, found = whole_batch(trained, now, z_of_part, batch.part(k, size))
            statistics = {**statistics, **found.updates}
            sums, kept = of_part(sums, grads, found)
            return (statistics, sums), (kept, found._replace(z={}, updates={}))

        carry = (fixed.variables, start)
        (statistics, sums), (kept, found) = jax.lax.scan(
            part, carry, jnp.arange(parts), unroll=unroll
        )
        wrong = found.wrong.sum()
        found = jax.tree.map(lambda leaf: leaf.mean(0), found)
        return sums, kept, found._replace(wrong=wrong, z=z, updates=statistics)

    def by_micro_batches(*given):
        """The mean gradient, and the variance from those of equal parts."""
        parts = config.batch.micro_batches
        size = len(given[-1].rows) // parts
        _, grads, found = in_parts(
            parts,
            lambda sums, grads, _: (sums, grads),
            (),
            *given,
            unroll=parts if network.slow_in_loops else 1,
        )
        spread = variance.of_micro_batches(grads["params"], size)
        grads = jax.tree.map(lambda leaf: leaf.mean(0), grads)
        return grads, found._replace(grad_variance=spread)

    def accumulated(*given):
        """The mean gradient, of which only sums are kept, as is of what the variance needs."""
        parts = savings.parts
        size = len(given[-1].rows) // parts

        def of_part(sums, grads, found):
            total, squares = sums
            mean = loss_gradient(grads, *given[:2])
            # Of examples within the part, or of the part's own mean; either way mean squares.
            squares = squares + found.grad_variance + variance.squared_norm(mean)
            return (jax.tree.map(jnp.add, total, grads), squares), ()

        start = (jax.tree.map(jnp.zeros_like, given[0]), jnp.zeros((), jnp.float32))
        (total, squares), _, found = in_parts(parts, of_part, start, *given)
        grads = jax.tree.map(lambda leaf: leaf / parts, total)
        mean = loss_gradient(grads, *given[:2])
        spread = jnp.maximum(squares / parts - variance.squared_norm(mean), 0.0)
        if kind == "micro":
            spread = spread * size * parts / (parts - 1)
        elif kind == "none":
            spread = jnp.zeros((), jnp.float32)
        return grads, found._replace(grad_variance=spread)

    if savings.parts > 1:
        return accumulated
    return by_micro_batches if kind == "micro" else whole_batch


def _products(primitive, *_, **__) -> bool:
    """What a backward pass keeps: results of matrix products and convolutions, nothing else."""
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


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
