"""The batch rule of a run: one of the library's, or one of your own, whose answers are checked."""

import dataclasses
from typing import Any

from dynhp_jax.batch_size import rules
from dynhp_jax.batch_size.rules import Controller
from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.config import Config


def controller_of(config: Config) -> Controller:
    """The rule that a config names.

    Raises:
      UserError: it cannot be imported or made, or has no `update`.
    """
    options, name = config.batching, config.batching.rule
    if not own_code.is_own(name):
        return rules.RULES[name](options)
    remedy = "name it yourself, by --config.batch.rule or, in Python, by dp.Config(batch=...)"
    found = own_code.value(name, "batch rule", config.origin, remedy)
    whose = f"batch rule {name!r}"
    if not callable(getattr(found, "update", None)):
        raise UserError(
            f"{whose} is a {type(found).__name__}; allowed: an object, or a class that is called"
            " without arguments, with update(batch, grad_variance, loss, room) -> batch"
        )
    return OwnRule(found, whose)


def reads_squared_norm(config: Config) -> bool:
    """Whether the rule of a config reads the squared norm of mini-batches' mean gradients."""
    return "squared_norm" in rules.reads(controller_of(config))


@dataclasses.dataclass(frozen=True, eq=False)
class OwnRule:
    """A rule of your own.

    Attributes:
      rule: with `update`.
      whose: what messages begin with.
    """

    rule: Any
    whose: str

    @property
    def reads(self) -> tuple[str, ...]:
        """See `rules.READS`."""
        return getattr(self.rule, "reads", ())

    def update(
        self, batch: int, grad_variance: float, loss: float, room: int, **more: float
    ) -> int:
        """See `Controller`.

        Raises:
          UserError: the rule raises something, or gives no size that there is room for.
        """
        with own_code.guarded(self.whose):
            found = self.rule.update(batch, grad_variance, loss, room, **more)
        whole = hasattr(found, "__index__") and not isinstance(found, bool)
        if not whole or not 1 <= found <= room:
            raise UserError(
                f"{self.whose} gives {found!r} after a mini-batch of {batch}; allowed: a whole"
                f" number from 1 to {room}, for which there is room"
            )
        return int(found)
