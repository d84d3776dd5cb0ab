"""Which savings a run needs, so that the smallest mini-batch of its whole network fits the budget.

They are tried one after the other (`step.savings`), by what the compiled steps would take.
"""

import dataclasses
from collections.abc import Iterable

from dynhp_jax.common import byte_sizes
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.memory.options import SAVINGS
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.step import savings
from dynhp_jax.training.step.savings import NOTHING


def within(steps: Steps, limit: int) -> Steps:
    """The steps of the same run, with the savings that it needs.

    Args:
      steps: without savings.
      limit: bytes.

    Raises:
      ConfigError: not even with all that the config allows; it names the smallest budgets.
    """
    found, least = _economised(steps, steps.asked.memory.allow, limit)
    if least > limit:
        raise _too_small(found, least)
    return found


def _economised(steps: Steps, allowed: Iterable[str], enough: int) -> tuple[Steps, int]:
    """With savings in their order, until the bytes are `enough` or less; and these bytes.

    One that does not lower the bytes is left out again.
    """
    best = steps.saving(NOTHING)
    least = _least(best)
    for change in savings.ladder(steps.asked, allowed, best.smallest):
        if least <= enough:
            break
        candidate = steps.saving(dataclasses.replace(best.used, **change))
        size = _least(candidate)
        if size < least:
            best, least = candidate, size
    return best, least


def _least(steps: Steps) -> int:
    """Bytes of the whole network with the smallest mini-batch, or to evaluate one example."""
    parts = [
        steps.evaluation_bytes(steps.whole, 1, split)
        for split in steps.examples
        if split != "train"
    ]
    parts.append(steps.training_bytes(steps.whole, steps.smallest))
    return max(map(step_bytes.total, parts))


def _too_small(steps: Steps, least: int) -> ConfigError:
    """Says the smallest budgets: with what is allowed now, and with all that there is."""
    offers = [(least, steps.used.names)]
    found, lowest = _economised(steps, SAVINGS, 0)
    if lowest < least:
        offers.append((lowest, found.used.names))
    said = " or ".join(
        byte_sizes.kib(size, up=True) + (f" with config.memory.allow={names!r}" if names else "")
        for size, names in offers
    )
    return ConfigError(
        "memory.budget",
        steps.asked.memory.budget,
        f"at least {said}, which the whole network takes with a mini-batch of {steps.smallest}",
    )
