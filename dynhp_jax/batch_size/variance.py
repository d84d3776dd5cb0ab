"""How much the gradients of a mini-batch vary from example to example: ||S||_1.

With per-example gradients g_i and their mean g, S = mean_i(g_i^2) - g^2 entry by entry (Balles et
al. 2017, eq. 12; DynHP, eq. 8). No entry of S is negative, so its L1 norm over all parameters is

    ||S||_1 = mean_i ||g_i||^2 - ||g||^2

and only the norms of the per-example gradients are needed, never the gradients. `probed` gets them
from the backward pass that runs anyway: where a matrix `W` meets the data, `y = a W`, the gradient
of example i is an outer product, and ||a_i outer d_i||^2 = ||a_i||^2 ||d_i||^2.

Three estimators: `probed` (exact, keeps no per-example gradient), `per_example` (exact, any model,
keeps all of them), `of_micro_batches` (for models that mix the examples of a batch, such as batch
normalisation in training, where per-example gradients do not exist).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.common.precision import wide

__all__ = ["of_micro_batches", "of_probe", "per_example", "probed", "squared_norm"]


def of_probe(probe_gradient: Any, gradient: Any, batch: Any = None) -> Any:
    """||S||_1 from the gradients of a mean loss with respect to probe and parameters.

    Args:
      probe_gradient: f32[batch], from `probed`.
      gradient: pytree, the mean gradient of the same loss.
      batch: examples that the loss is the mean of, where the others weigh nothing; by default all.

    Returns:
      f32[], at least 0.
    """
    batch = probe_gradient.shape[0] if batch is None else batch
    return jnp.maximum(batch * jnp.sum(probe_gradient) - squared_norm(gradient), 0.0)


def per_example(loss: Callable, params: Any, *examples: Any) -> tuple[Any, Any]:
    """||S||_1 and mean gradient by `vmap`, for any model whose examples do not mix.

    Args:
      loss: `loss(params, *example) -> f[]` of one example, without batch axes.
      params: pytree.
      *examples: arrays (or pytrees) with a leading batch axis.

    Returns:
      (||S||_1 f[], float32 at least; mean gradient like `params`). Keeps all per-example gradients
      in memory.
    """
    grads = jax.vmap(jax.grad(loss), in_axes=(None, *(0 for _ in examples)))(params, *examples)
    mean = jax.tree.map(lambda g: wide(g).mean(0), grads)
    centred = jax.tree.map(lambda g, m: jnp.sum((wide(g) - m) ** 2) / g.shape[0], grads, mean)
    mean = jax.tree.map(lambda g, m: m.astype(g.dtype), grads, mean)
    return sum(jax.tree.leaves(centred)), mean


def of_micro_batches(grads: Any, size: int) -> Any:
    """||S||_1 of one example as seen through means over micro-batches of a batch.

    The variance of a mean over `size` examples is 1/size of that of one example, and k means have
    k - 1 degrees of freedom; both are undone, so that the figure compares with the exact ones. With
    batch normalisation the examples of a micro-batch depend on each other: an estimate of its own
    kind, to be labelled as such.

    Args:
      grads: pytree with a leading axis of k >= 2 micro-batches, mean gradients.
      size: examples in each micro-batch.

    Returns:
      f[], float32 at least.
    """
    leaves = [wide(leaf) for leaf in jax.tree.leaves(grads)]
    k = leaves[0].shape[0]
    if k < 2:
        raise ValueError(f"the variance of {k} micro-batch mean; give at least 2 micro-batches")
    spread = sum(jnp.sum((g - g.mean(0)) ** 2) for g in leaves)
    return size * spread / (k - 1)


def squared_norm(tree: Any) -> Any:
    """Sum of squares of all entries, in float32 at least."""
    return sum(jnp.sum(jnp.square(wide(leaf))) for leaf in jax.tree.leaves(tree))
