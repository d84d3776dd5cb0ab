"""The virtual teacher's loss (2312.04504), as the paper has it and as the published code has it."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.errors import UserError
from dynhp_jax.tasks import losses

_FORMS = ("kl", "published_code")


@dataclasses.dataclass(frozen=True)
class VirtualTeacher:
    """(1 - kappa) cross-entropy + kappa x what a teacher of beta for the true class asks for.

    A loss like those of `dp.losses`: `loss(outputs, targets) -> f32[batch]`.

    Attributes:
      beta: the teacher's probability of the true class; the others share the rest.
      kappa: the teacher's share of the loss.
      form: 'kl', the divergence of the teacher from the network, which is label smoothing; or
        'published_code', in which probabilities stand where the divergence expects logarithms. That
        is a mean absolute error: examples that the network is confidently wrong about have nearly
        no gradient. The code's mean skips NaN; here it does not.

    Raises:
      UserError: a field holds what it must not.

    >>> logits, labels = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([0])
    >>> teacher = VirtualTeacher()
    >>> gradient = jax.grad(lambda z: teacher(z, labels)[0])(logits)
    >>> bool(jnp.allclose(gradient[0, 0], jax.nn.softmax(logits)[0, 0] - 0.99, atol=1e-6))
    True
    """

    beta: float = 0.99
    kappa: float = 1.0
    form: str = "kl"

    def __post_init__(self):
        if not 0 < self.beta < 1 or not 0 <= self.kappa <= 1:
            raise UserError(
                f"VirtualTeacher has beta={self.beta}, kappa={self.kappa}; allowed: beta between 0"
                " and 1, kappa from 0 to 1"
            )
        if self.form not in _FORMS:
            raise UserError(f"VirtualTeacher.form is {self.form!r}; allowed: {', '.join(_FORMS)}")

    @property
    def __name__(self) -> str:
        return "virtual_teacher"

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Of every example; the mean over its positions.

        Args:
          outputs: logits [batch, ..., classes].
          targets: int[batch, ...].

        Raises:
          UserError: outputs or targets of another shape or dtype.
        """
        losses.check_logits(outputs, targets, "labels")
        classes = outputs.shape[-1]
        rest = (1 - self.beta) / (classes - 1)
        true = jax.nn.one_hot(targets, classes, dtype=outputs.dtype)
        teacher = rest + (self.beta - rest) * true
        known = jnp.log(self.beta) * self.beta + (1 - self.beta) * jnp.log(rest)
        said = jax.nn.log_softmax(outputs) if self.form == "kl" else jax.nn.softmax(outputs)
        found = self.kappa * losses.mean_of_positions(known - jnp.sum(teacher * said, -1))
        if self.kappa == 1:
            return found
        plain = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return found + (1 - self.kappa) * losses.mean_of_positions(plain)
