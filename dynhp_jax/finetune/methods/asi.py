"""ASI: what the last layers read is kept in subspaces that follow from step to step (2505.05086).

One step of subspace iteration for each axis from the factor of the step before, which is state and
takes bytes. Ranks are those of HOSVD at `epsilon`; with `per_layer` the paper's search finds one
epsilon for each layer.
"""

import dataclasses

from dynhp_jax.finetune.methods.last_k import LastK


@dataclasses.dataclass(frozen=True)
class ASI(LastK):
    """The last `k` layers, of compressed inputs."""

    compress: str = dataclasses.field(default="asi", kw_only=True)
