"""Options of the model."""

import dataclasses
import math

from dynhp_jax.common.fields import (
    LARGEST_WHOLE,
    Section,
    as_whole,
    named,
    number,
    several,
    text,
    whole,
)
from dynhp_jax.models import registry


def _width(value) -> int:
    if as_whole(value) < 1:
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Model(Section):
    prefix = "model."
    name: str = named("mlp", tuple(registry.SPECS), "the network")
    hidden: tuple[int, ...] = several(
        (), _width, f"widths of 1 to {LARGEST_WHOLE}, such as (300, 100)",
        "units of the hidden layers; (): the model's own",
    )  # fmt: skip
    width: float = number(
        0.0, 0.0, math.inf, "a number, 0 or more", "multiplies its widths; 0: the model's own"
    )
    depth: int = whole(
        0, 0, "layers or blocks, for models that have a choice; 0: the model's own", high=10_000
    )


@dataclasses.dataclass(frozen=True)
class Start(Section):
    prefix = "start."
    weights: str = text(
        "", "archive (.npz) of trained weights that a network with a new head starts from"
    )
