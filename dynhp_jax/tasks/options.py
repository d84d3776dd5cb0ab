"""Options of the loss and of what is reported beside it."""

import dataclasses

from dynhp_jax.common.fields import Section, as_text, named, several, text
from dynhp_jax.common.own_code import is_own
from dynhp_jax.tasks.losses import LOSSES
from dynhp_jax.tasks.metrics import METRICS


def _metric(value) -> str:
    if as_text(value) not in METRICS and not is_own(value):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Loss(Section):
    prefix = "loss."
    name: str = named("cross_entropy", tuple(LOSSES), "what training makes small, by example")
    metrics: tuple[str, ...] = several(
        (), _metric, f"names among {', '.join(METRICS)}, or module:object of your own",
        "what is reported beside it; (): what is usual with the loss",
    )  # fmt: skip
    best: str = text(
        "",
        "the metric by which the best epoch is chosen; empty: the first one, or else the loss",
    )
