"""Fixed projections: what the last layers read is kept in subspaces of one batch.

Source: LANCE (2509.21617). How it chooses axes and renews factors is not known; here channels and
space are decomposed, and factors are renewed with the ranks, every `calibrate` epochs.
"""

import dataclasses

from dynhp_jax.finetune.methods.last_k import LastK


@dataclasses.dataclass(frozen=True)
class Fixed(LastK):
    """The last `k` layers, of compressed inputs."""

    compress: str = dataclasses.field(default="fixed", kw_only=True)
