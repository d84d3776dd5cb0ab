"""Options of the memory budget."""

import dataclasses

from dynhp_jax.common.fields import (
    Section,
    choice,
    several,
    text,
    whole,
)
from dynhp_jax.memory.registry import METERS

SAVINGS = ("accumulate", "remat", "shared_gates", "bf16_moments")


def _saving(value) -> str:
    if value not in SAVINGS:
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Memory(Section):
    prefix = "memory."
    meter: str = choice(
        "paper",
        METERS,
        "how memory is counted: by the paper's arithmetic, or as XLA allocates it for the steps",
    )
    budget: str = text(
        "sp", "bytes, such as '1.5MiB'; 'sp': the whole network at sp_batch; 'none': no limit"
    )
    sp_batch: int = whole(128, 1, "the batch of soft pruning; also of the budget 'sp'")
    allow: tuple[str, ...] = several(
        (),
        _saving,
        f"names among {', '.join(SAVINGS)}",
        "what may be done where even the smallest mini-batch does not fit (meter 'xla')",
    )
    smallest: int = whole(
        0, 0, "the smallest mini-batch; 0: 1, or batch.size where accumulating is allowed"
    )
