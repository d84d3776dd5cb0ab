"""Fine-tuning in a byte budget: update less, store less, in any model."""

from dynhp_jax.finetune import decomposition
from dynhp_jax.finetune.bit_activations import bit_activations
from dynhp_jax.finetune.calibration import calibrate
from dynhp_jax.finetune.chunked import chunked_prefix
from dynhp_jax.finetune.compressed import compressed
from dynhp_jax.finetune.costs import Cost, channel_costs, sparse_update_bytes
from dynhp_jax.finetune.drawing import (
    Quota,
    capacities,
    draw,
    draw_pooled,
    draw_top,
    fastest_within,
    largest_capacities,
    quotas,
    remember_norms,
    row_norms,
)
from dynhp_jax.finetune.low_rank import LowRank, low_rank, low_rank_factors, merge_low_rank
from dynhp_jax.finetune.optimizer_rows import by_row, move
from dynhp_jax.finetune.planning.plan import Plan, plan
from dynhp_jax.finetune.policies import BUDGETS, POLICIES, Policy
from dynhp_jax.finetune.ranking import rank_layers
from dynhp_jax.finetune.rows import Rows, apply_rows, pad_rows, take_rows, zero_probes
from dynhp_jax.finetune.selected import selected

__all__ = [
    "BUDGETS",
    "Cost",
    "LowRank",
    "POLICIES",
    "Plan",
    "Policy",
    "Quota",
    "Rows",
    "apply_rows",
    "bit_activations",
    "by_row",
    "calibrate",
    "capacities",
    "channel_costs",
    "chunked_prefix",
    "compressed",
    "decomposition",
    "draw",
    "draw_pooled",
    "draw_top",
    "fastest_within",
    "largest_capacities",
    "low_rank",
    "low_rank_factors",
    "merge_low_rank",
    "move",
    "pad_rows",
    "plan",
    "quotas",
    "rank_layers",
    "remember_norms",
    "row_norms",
    "selected",
    "sparse_update_bytes",
    "take_rows",
    "zero_probes",
]
