"""Options of what takes the records of a run."""

import dataclasses

from dynhp_jax.common import own_code
from dynhp_jax.common.fields import Section, as_text, several
from dynhp_jax.writers.registry import WRITERS


def _writer(value) -> str:
    if as_text(value) not in WRITERS and not own_code.is_own(value):
        raise ValueError
    return value


@dataclasses.dataclass(frozen=True)
class Records(Section):
    prefix = "records."
    writers: tuple[str, ...] = several(
        (), _writer, f"names among {', '.join(WRITERS)}, or module:object of your own, in a tuple",
        "what takes the record of every epoch, beside metrics.jsonl",
    )  # fmt: skip
