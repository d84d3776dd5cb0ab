"""TraDy: rows drawn uniformly from the layers that are worth their memory, anew in each epoch.

Source: TraDy (2510.19675). Layers are worth it by their reweighted gradient norm, RGN: the norms of
their rows' gradients by the rows' cost; kept are the fewest that hold 97 % of the sum. A draw has
quotas for layers unless `capacity` is the paper's 'pooled': the same chances in expectation.
"""

import dataclasses

from dynhp_jax.finetune.methods.drawn import Drawn


@dataclasses.dataclass(frozen=True)
class TraDy(Drawn):
    """Uniform draws from `layers` (of `rank_layers`), or from those that `ranking` finds."""
