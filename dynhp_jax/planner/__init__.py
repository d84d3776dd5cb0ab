"""The planner: when to compress, and what to train where (PACT, Malandrino et al. 2023)."""

from dynhp_jax.planner import baselines
from dynhp_jax.planner.estimators.estimator import Estimator, Forecast
from dynhp_jax.planner.estimators.exact import Curves
from dynhp_jax.planner.plan import Infeasible, Plan, Step, plan
from dynhp_jax.planner.replanning import Executed, Observed, replanned, world
from dynhp_jax.planner.state import Stage, State
from dynhp_jax.planner.tables import Grid, Limits, Move, Pair, Tables, matched

__all__ = [
    "Curves",
    "Estimator",
    "Executed",
    "Forecast",
    "Grid",
    "Infeasible",
    "Limits",
    "Move",
    "Observed",
    "Pair",
    "Plan",
    "Stage",
    "State",
    "Step",
    "Tables",
    "baselines",
    "matched",
    "plan",
    "replanned",
    "world",
]
