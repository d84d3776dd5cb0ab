"""Losses: `loss(outputs, targets) -> f32[batch]`, one number for every example.

One number per example, not their mean, lets the engine weigh examples, leave padding out, and
measure how much the gradients of examples vary. A loss of your own is any function like these.

>>> import jax.numpy as jnp
>>> mean_squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
[5.0]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.errors import UserError

_OTHERS = "for other outputs or labels give a loss of your own, loss=..."


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(outputs)[target]; the mean over an example's positions.

    Args:
      outputs: logits [batch, ..., classes], of two classes or more; axes between the first and the
        last are positions: those of a sentence's tokens, or of an image's pixels.
      targets: int[batch, ...], from 0 to classes - 1.

    Returns:
      f32[batch].

    Raises:
      UserError: outputs or targets of another shape or dtype.
    """
    check_logits(outputs, targets, "labels")
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return mean_of_positions(losses)


def masked_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`cross_entropy` over the positions of an example whose target is not negative.

    An example without such a position has a loss of 0.

    Args:
      outputs: logits [batch, ..., classes].
      targets: int[batch, ...]; negative where a position does not count, such as padding.

    Returns:
      f32[batch].

    >>> logits = jnp.zeros((1, 3, 4))
    >>> losses = masked_cross_entropy(logits, jnp.array([[2, -1, 0]]))
    >>> bool(jnp.allclose(losses, jnp.log(4)))
    True
    """
    check_logits(outputs, targets, "labels")
    counts = targets >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(targets, 0))
    return mean_of_counted(losses, counts)


def sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The binary cross-entropy of several labels that may all be true; the mean over the labels.

    Args:
      outputs: logits [batch, ...].
      targets: [batch, ...] of 0 and 1, or of probabilities.

    Returns:
      f32[batch].
    """
    check_alike(outputs, targets)
    return mean_of_positions(optax.sigmoid_binary_cross_entropy(outputs, targets))


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The squared difference; the mean over an example's numbers.

    Args:
      outputs, targets: f32[batch, ...]; outputs [batch, 1] also go with targets [batch].

    Returns:
      f32[batch].
    """
    return mean_of_positions(jnp.square(difference(outputs, targets)))


def mean_absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The absolute difference; the mean over an example's numbers.

    Args:
      outputs, targets: as for `mean_squared_error`.

    Returns:
      f32[batch].
    """
    return mean_of_positions(jnp.abs(difference(outputs, targets)))


# A new loss that configs may name: its function, and its line here.
LOSSES: dict[str, Callable[[Any, Any], jax.Array]] = {
    "cross_entropy": cross_entropy,
    "masked_cross_entropy": masked_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}


def difference(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """outputs - targets, of one shape; outputs [batch, 1] also go with targets [batch]."""
    if getattr(outputs, "ndim", 0) == getattr(targets, "ndim", 0) + 1 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    check_alike(outputs, targets)
    return outputs - targets


def mean_of_positions(losses: jax.Array) -> jax.Array:
    """[batch]: the mean over all axes but the first."""
    return losses if losses.ndim == 1 else jnp.mean(losses, axis=tuple(range(1, losses.ndim)))


def mean_of_counted(values: jax.Array, counts: jax.Array) -> jax.Array:
    """[batch]: the mean over the positions that count, bool[batch, ...]; 0 where none does."""
    axes = tuple(range(1, counts.ndim))
    total = jnp.sum(jnp.where(counts, values, jnp.zeros((), values.dtype)), axes)
    return total / jnp.maximum(jnp.sum(counts, axes), 1)


def check_logits(outputs: Any, targets: Any, called: str) -> None:
    """Raises UserError unless these are logits [batch, ..., classes] and integers [batch, ...]."""
    shape = getattr(outputs, "shape", ())
    if len(shape) < 2 or shape[-1] < 2:
        raise UserError(
            f"the outputs are {shapes(outputs)}; the cross entropy allows logits [batch, classes] "
            f"or [batch, positions, classes], of two classes or more; {_OTHERS}"
        )
    whole = jnp.issubdtype(getattr(targets, "dtype", bool), jnp.integer)
    if not whole or targets.shape != shape[:-1]:
        raise UserError(
            f"the {called} are {shapes(targets)}; the cross entropy allows int{list(shape[:-1])}, "
            f"from 0 to {shape[-1] - 1}; {_OTHERS}"
        )


def check_alike(outputs: Any, targets: Any) -> None:
    """Raises UserError unless outputs and targets are arrays of one shape."""
    if getattr(outputs, "shape", None) != getattr(targets, "shape", ()):
        raise UserError(
            f"the outputs are {shapes(outputs)}, the targets {shapes(targets)}; this loss allows"
            f" arrays of one shape; {_OTHERS}"
        )


def shapes(tree: Any) -> str:
    """Dtypes and shapes for a message: float32[7,3]."""
    return str(jax.tree.map(lambda leaf: jax.typeof(leaf).str_short(), tree)).replace("'", "")
