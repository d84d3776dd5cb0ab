"""FedQUIT: a node's examples are forgotten by learning from a teacher that does not know them.

The teacher is the frozen network, whose logit of the true class is replaced; the student learns its
probabilities on the examples to be forgotten (Mora, Dominici and Bellavista, FedQUIT; the published
code alessiomora/FedQUIT). The teacher never changes, so its probabilities are targets, and the loss
is one like any other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks import losses

Array = jax.Array


def _least(logits: Array, true: Array) -> Array:
    return logits.min(-1)


def _zero(logits: Array, true: Array) -> Array:
    return jnp.zeros(logits.shape[:-1], logits.dtype)


def _mean(logits: Array, true: Array) -> Array:
    others = jnp.where(true, -jnp.inf, logits)
    return jnp.sum(jnp.where(true, 0, logits) * jax.nn.softmax(others), -1)


# What stands for the true class's logit: of [examples, classes] and one-hot bool, [examples].
FORMS: dict[str, Callable[[Array, Array], Array]] = {"least": _least, "zero": _zero, "mean": _mean}


def forgetting_targets(logits: Any, labels: Any, form: str = "least") -> Array:
    """The teacher's probabilities: softmax of the logits with another one for the true class.

    Args:
      logits: f32[examples, classes], of the frozen network, for evaluation.
      labels: int[examples].
      form: 'least', the least logit of the example, over all classes; 'zero'; or 'mean', that of
        the other classes weighed by their softmax.

    Returns:
      f32[examples, classes].

    Raises:
      UserError: there is no such form, or logits and labels do not fit.

    >>> forgetting_targets(jnp.array([[3.0, 0.0, 0.0, 0.0]]), jnp.array([0])).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    if form not in FORMS:
        raise UserError(f"there is no form {form!r} of forgetting; allowed: {', '.join(FORMS)}")
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    losses.check_logits(logits, labels, "labels")
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jax.nn.softmax(jnp.where(true, FORMS[form](logits, true)[..., None], logits))


def forgetting(outputs: Array, targets: Array) -> Array:
    """KL(targets || softmax(outputs)) of every example, f32[batch]: a loss like any other.

    Args:
      outputs: logits f32[batch, classes].
      targets: f32[batch, classes], from `forgetting_targets`.

    Raises:
      UserError: of another shape or dtype.
    """
    if np.shape(outputs) != np.shape(targets) or not jnp.issubdtype(targets.dtype, jnp.floating):
        raise UserError(
            f"forgetting has outputs {losses.shapes(outputs)} and targets {losses.shapes(targets)};"
            " allowed: logits, and probabilities of the same shape from forgetting_targets"
        )
    known = xlogy(targets, targets).sum(-1)
    return known - jnp.sum(targets * jax.nn.log_softmax(outputs), -1)
