"""What a training step can do without, when even its smallest mini-batch does not fit the budget.

Donating the state, and finishing all gradients before the optimizer uses them, cost nothing and are
always on. The four here cost time or precision, so a run uses one only if `config.memory.allow`
names it and the budget needs it; they are tried in this order, each on top of those before.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from dynhp_jax.memory.options import SAVINGS
from dynhp_jax.training.config import Config

MOMENTS = ("adam", "momentum")  # the optimizers that have a moment to keep in bfloat16


@dataclasses.dataclass(frozen=True)
class Savings:
    """What a run uses of them.

    Attributes:
      parts: equal parts of a mini-batch that are in memory one after the other; 1: all at once.
      remat: elementwise activations are computed again in the backward pass.
      shared_gates: gates are drawn for a mini-batch instead of for each example.
      bf16_moments: the optimizer's first moment is kept in bfloat16. Not the second: it changes by
        0.1 % a step, less than bfloat16 can tell.
    """

    parts: int = 1
    remat: bool = False
    shared_gates: bool = False
    bf16_moments: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Those in use, as `config.memory.allow` spells them.

        >>> Savings(parts=4, remat=True).names
        ('accumulate', 'remat')
        """
        used = (self.parts > 1, self.remat, self.shared_gates, self.bf16_moments)
        return tuple(name for name, on in zip(SAVINGS, used, strict=True) if on)

    def applied(self, config: Config) -> Config:
        """The config of the run with these savings: gates per example or not."""
        if not self.shared_gates:
            return config
        return dataclasses.replace(
            config, gates=dataclasses.replace(config.gates, per_example=False)
        )


NOTHING = Savings()


def smallest_batch(config: Config) -> int:
    """The smallest mini-batch that a run takes: `memory.smallest`, or by what it leaves open.

    Where accumulating is allowed a small memory is no reason for a small mini-batch, so that it
    does not fall below the one that the run starts with.
    """
    smallest = config.memory.smallest
    if not smallest:
        smallest = config.batching.size if "accumulate" in config.memory.allow else 1
    return smallest


def ladder(config: Config, allowed: Iterable[str], smallest: int) -> Iterator[dict[str, Any]]:
    """What to change in a `Savings`, one after the other, in the order they are to be tried.

    Args:
      config: the run.
      allowed: names of those that may be used.
      smallest: the smallest mini-batch; accumulating splits it in 2, 4, ... equal parts.
    """
    if "accumulate" in allowed:
        parts = 2
        while smallest % parts == 0:
            yield {"parts": parts}
            parts *= 2
    if "remat" in allowed:
        yield {"remat": True}
    if "shared_gates" in allowed and config.gated and config.gates.per_example:
        yield {"shared_gates": True}
    if "bf16_moments" in allowed and config.optimizer.name in MOMENTS:
        yield {"bf16_moments": True}
