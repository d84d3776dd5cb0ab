"""Rules of aggregation: a node's new weights from its own and its neighbours'; a file each."""

from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.decdiff import DecDiff
from dynhp_jax.decentralised.aggregation.dechw import DecHW
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.aggregation.zero_filled import ZeroFilled

# A new rule that configs may name: its file, and its line here.
RULES: dict[str, type[Rule]] = {
    "decavg": DecAvg,
    "decdiff": DecDiff,
    "dechw": DecHW,
    "coverage": Coverage,
    "zero_filled": ZeroFilled,
}
