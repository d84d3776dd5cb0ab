"""CompAct: what the last layers read is kept projected at random, along its channels (NAACL 2025).

x P with a matrix P[channels, rank] of normal noise, whose gradient P (x P)^T dy is in the mean over
P the exact one. A share `epsilon` of the channels' number is kept, and P is another every
`calibrate` epochs.
"""

import dataclasses

from dynhp_jax.finetune.methods.last_k import LastK


@dataclasses.dataclass(frozen=True)
class CompAct(LastK):
    """The last `k` layers, of projected inputs."""

    compress: str = dataclasses.field(default="random", kw_only=True)
    epsilon: float = dataclasses.field(default=0.25, kw_only=True)
    calibrate: int = dataclasses.field(default=1, kw_only=True)
