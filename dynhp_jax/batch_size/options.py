"""Options of the mini-batch."""

import dataclasses

from dynhp_jax.batch_size import rules
from dynhp_jax.common.fields import (
    Section,
    choice,
    named,
    number,
    positive,
    whole,
)


@dataclasses.dataclass(frozen=True)
class Batch(Section):
    prefix = "batch."
    size: int = whole(0, 0, "examples of a mini-batch (at first); 0: by the method")
    rule: str = named("method", ("method", *rules.RULES), "how it grows; 'method': by the method")
    every: str = choice(
        "epoch",
        ("epoch", "step"),
        "DynHP's rule is applied once an epoch, or at its end once for each of the epoch's steps",
    )
    alpha: float = number(
        0.975, 0.0, 1.0, "a number from 0 to 1", "DynHP: smaller lets the batch grow faster"
    )
    eta: float = positive(0.1, "CABS: its factor of proportion")
    overhead: float = positive(
        32.0, "worth: examples that cost as much as what a step takes for any number of them"
    )
    loss: str = choice(
        "total", ("total", "cross_entropy"), "F in the rules: with the penalty or not"
    )
    variance: str = choice(
        "auto",
        ("auto", "norms", "vmap", "micro", "none"),
        "how ||S||_1 is found: exactly, from norms or every example's gradient (vmap); "
        "of micro-batch means (batch normalisation); not at all",
    )
    micro_batches: int = whole(2, 2, "parts of a mini-batch, with the variance 'micro'")
    decay: float = number(
        0.95, 0.0, 1 - 1e-9, "a number from 0 to below 1", "of the running means of ||S||_1 and F"
    )
    grid: float = number(
        1.25, 1.0, 1e6, "a number, 1 or more", "compiled batch sizes are this factor apart"
    )
