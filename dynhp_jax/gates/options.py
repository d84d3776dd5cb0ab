"""Options of the gates, of their penalty and of the pruning by them."""

import dataclasses
import math

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import (
    Section,
    as_text,
    choice,
    number,
    several,
    size_in_bytes,
    switch,
    whole,
)
from dynhp_jax.gates import penalty


def _check_span(section: Section) -> None:
    """Raises ConfigError where `stop`, unless 0, is not after `start`."""
    if 0 < section.stop <= section.start:
        allowed = f"0, or after the first {section.start} epochs ({section.prefix}start)"
        raise ConfigError(f"{section.prefix}stop", section.stop, allowed)


@dataclasses.dataclass(frozen=True)
class Gates(Section):
    prefix = "gates."
    per_example: bool = switch(False, "draw gates for each example instead of each mini-batch")
    inputs: bool = switch(True, "gate (and prune) the inputs, too")
    open_input: float = number(
        0.8, 1e-6, 1 - 1e-6, "a number between 0 and 1", "1 - drop rate of input gates at the start"
    )
    open_hidden: float = number(
        0.5, 1e-6, 1 - 1e-6, "a number between 0 and 1", "1 - drop rate of other gates at the start"
    )
    learning_rate: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more", "step size of log alpha; 0: the optimizer's"
    )
    most_open: float = number(
        1.0, 0.1, 1.0, "a number from 0.1 to 1",
        "largest 1 - drop rate of a gate, so that gates stay random; 1: no bound to speak of",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Penalty(Section):
    prefix = "penalty."
    lam: float = number(0.1, 0.0, math.inf, "a number, 0 or more", "strength of the L0 penalty")
    convention: str = choice(
        "amlab", penalty.CONVENTIONS, "what lam multiplies; see docs/tuning.md"
    )
    l2: float = number(
        0.0,
        0.0,
        math.inf,
        "a number, 0 or more",
        "rho, precision of an L2 term weighed by the gates",
    )
    start: int = whole(0, 0, "epochs before there is a price on gates")
    warmup: int = whole(0, 0, "epochs in which lam rises linearly, from then on")
    stop: int = whole(0, 0, "the last epoch with a price on gates; 0: the run's")

    def __post_init__(self):
        super().__post_init__()
        _check_span(self)


@dataclasses.dataclass(frozen=True)
class Pruning(Section):
    prefix = "pruning."
    gamma: float = number(
        0.5, 0.0, 1.0, "a number from 0 to 1", "units active less often than this are removed"
    )
    groups: tuple[str, ...] = several(
        (), as_text, "names of groups, or () for every exact one", "which groups to gate and prune"
    )
    start: int = whole(0, 0, "epochs before any unit is removed")
    stop: int = whole(0, 0, "the last epoch after which units are removed; 0: the run's")
    size: str = size_in_bytes(
        "", "bytes of parameters at which pruning ends, after `stop` at the latest; empty: no size"
    )

    def __post_init__(self):
        super().__post_init__()
        _check_span(self)
        if self.size and not self.stop:
            allowed = "an epoch, after which pruning.size is held; a sixth of the run's does"
            raise ConfigError("pruning.stop", self.stop, allowed)
