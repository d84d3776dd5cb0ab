"""FedQUIT's targets and loss against their formulas in float64; an example that is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynhp_jax import UserError
from dynhp_jax.decentralised import forgetting, forgetting_targets

RNG = np.random.default_rng(2)
LOGITS, LABELS = 3 * RNG.normal(size=(7, 5)), RNG.integers(0, 5, 7)
OTHER = 3 * RNG.normal(size=(7, 5))


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def instead(form, z, label):
    rest = np.delete(z, label)
    return {"least": z.min(), "zero": 0.0, "mean": softmax(rest) @ rest}[form]


@pytest.mark.parametrize("form", ["least", "zero", "mean"])
def test_targets_and_loss_are_the_formulas(form):
    wanted, told = [], []
    for z, label, student in zip(LOGITS, LABELS, OTHER, strict=True):
        teacher = z.copy()
        teacher[label] = instead(form, z, label)
        p, q = softmax(teacher), softmax(student)
        wanted.append(p)
        told.append(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
    targets = forgetting_targets(LOGITS.astype("f4"), LABELS, form)
    np.testing.assert_allclose(targets, wanted, atol=1e-6)
    np.testing.assert_allclose(forgetting(jnp.array(OTHER, "f4"), targets), told, rtol=1e-5)


def test_a_class_that_is_not_there_costs_nothing():
    """A probability of zero has neither a loss that is no number nor a gradient that is none."""
    targets = jnp.array([[0.0, 1.0]])
    value, gradient = jax.value_and_grad(lambda z: forgetting(z, targets)[0])(jnp.zeros((1, 2)))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5, -0.5]])


def test_what_does_not_fit_is_a_line():
    with pytest.raises(UserError, match="no form 'top5' of forgetting; allowed: least, zero, mean"):
        forgetting_targets(LOGITS, LABELS, "top5")
    with pytest.raises(UserError, match="probabilities of the same shape from forgetting_targets"):
        forgetting(jnp.zeros((3, 2)), jnp.zeros(3, int))
