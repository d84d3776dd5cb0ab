"""Metrics: what is reported of a network beside its loss, from sums over the examples.

>>> import jax.numpy as jnp
>>> outputs, targets = jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1, 1])
>>> ERROR.result(ERROR.sums(outputs, targets, None), 2)
50.0
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks import losses


def mean(sums: Any, examples: int) -> float:
    """The mean over the examples."""
    return float(sums) / examples


def percent(sums: Any, examples: int) -> float:
    """The share of the examples, in percent."""
    return 100 * float(sums) / examples


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that is known once all examples of a split were seen.

    Attributes:
      values: `values(outputs, targets) -> [batch, ...]`, which are summed over the batch; traced.
      result: `result(sums, examples) -> float` from the sums over a whole split, on the host.
      higher: whether a higher number is a better one.
      unit: printed behind the number: '%' or ''.
    """

    values: Callable[[Any, Any], jax.Array]
    result: Callable[[Any, int], float] = mean
    higher: bool = False
    unit: str = ""

    def sums(self, outputs: Any, targets: Any, weight: jax.Array | None) -> jax.Array:
        """The sum over the examples that count.

        Args:
          outputs, targets: of a mini-batch.
          weight: bool[batch], which examples count; None for all.
        """
        values = self.values(outputs, targets)
        if weight is not None:
            weight = weight.reshape(-1, *[1] * (values.ndim - 1))
            values = jnp.where(weight, values, jnp.zeros((), values.dtype))
        # Counts stay whole numbers, so that no sum is rounded.
        return jnp.sum(values, 0)


def wrong(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Misclassified, [batch]: whether it is; of several positions the share, without padding.

    Args:
      outputs: [batch, ..., classes].
      targets: int[batch, ...]; a negative one does not count.
    """
    missed = jnp.argmax(outputs, -1) != targets
    if targets.ndim == 1:
        return missed
    return losses.mean_of_counted(missed, targets >= 0)


def wrong_labels(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """f32[batch]: the share of labels on whose wrong side a logit is."""
    return losses.mean_of_positions(((outputs > 0) != (targets > 0.5)).astype(jnp.float32))


def _moments(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """f32[batch, 4]: of every example the squared error, the target, its square, and a count."""
    apart = losses.difference(outputs, targets)
    each = jnp.stack([apart**2, targets, targets**2, jnp.ones_like(targets)], -1)
    return each if each.ndim == 2 else jnp.sum(each, tuple(range(1, each.ndim - 1)))


def _r2(sums: Any, examples: int) -> float:
    apart, total, squares, count = (float(each) for each in np.asarray(sums, np.float64))
    spread = squares - total**2 / count
    return 1 - apart / spread if spread > 0 else 0.0


def _surprise(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """f32[batch, 2]: of every example the cross-entropy of all its positions, and their number."""
    losses.check_logits(outputs, targets, "labels")
    counts = targets >= 0
    found = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(targets, 0))
    each = jnp.stack([jnp.where(counts, found, 0.0), counts.astype(found.dtype)], -1)
    return jnp.sum(each, tuple(range(1, each.ndim - 1)))


def _perplexity(sums: Any, examples: int) -> float:
    total, count = (float(each) for each in np.asarray(sums, np.float64))
    # Records hold finite numbers; a cross-entropy of 700 has another name by then.
    return math.exp(min(total / max(count, 1.0), 700.0))


ERROR = Metric(wrong, percent, unit="%")
ACCURACY = Metric(lambda o, t: 1 - wrong(o, t).astype(jnp.float32), percent, higher=True, unit="%")
LABEL_ERROR = Metric(wrong_labels, percent, unit="%")
ABSOLUTE_ERROR = Metric(losses.mean_absolute_error)
ROOT_SQUARED_ERROR = Metric(losses.mean_squared_error, lambda s, n: math.sqrt(float(s) / n))
R2 = Metric(_moments, _r2, higher=True)
PERPLEXITY = Metric(_surprise, _perplexity)

# A new metric that configs may name: its line here.
METRICS: dict[str, Metric] = {
    "error": ERROR,
    "accuracy": ACCURACY,
    "label_error": LABEL_ERROR,
    "absolute_error": ABSOLUTE_ERROR,
    "root_squared_error": ROOT_SQUARED_ERROR,
    "r2": R2,
    "perplexity": PERPLEXITY,
}

# Of the shipped losses, what is reported where nobody asks for anything.
USUAL = {
    "cross_entropy": ("error",),
    "masked_cross_entropy": ("error",),
    "sigmoid_cross_entropy": ("label_error",),
    "mean_squared_error": ("root_squared_error", "r2"),
    "mean_absolute_error": ("absolute_error",),
}


def of_names(given: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics by name, from metrics, functions and the library's own names.

    Args:
      given: {name: `Metric`, a function `(outputs, targets) -> [batch]` whose mean is reported, or
        a name of METRICS}.

    Raises:
      UserError: it is none of these.
    """
    return {name: _metric(name, value) for name, value in given.items()}


def _metric(name: str, value: Any) -> Metric:
    if isinstance(value, Metric):
        return value
    if isinstance(value, str) and value in METRICS:
        return METRICS[value]
    if callable(value):
        return Metric(value)
    raise UserError(
        f"metric {name!r} is {value!r}; allowed: a function (outputs, targets) -> [batch], a"
        f" Metric, or one of {', '.join(METRICS)}"
    )
