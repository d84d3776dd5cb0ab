"""HOSVD: what the last layers read is decomposed in every step (2411.06346)."""

import dataclasses

from dynhp_jax.finetune.methods.last_k import LastK


@dataclasses.dataclass(frozen=True)
class HOSVD(LastK):
    """The last `k` layers, of compressed inputs."""

    compress: str = dataclasses.field(default="hosvd", kw_only=True)
