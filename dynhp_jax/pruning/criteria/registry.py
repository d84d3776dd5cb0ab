"""Criteria by name.

>>> get_criterion("l1", members="both")
L1(members='both', scale='mean', reduction='mean')
"""

import dataclasses
from collections.abc import Callable

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.literals import check_options
from dynhp_jax.pruning.criteria.activation_rate import ActivationRate
from dynhp_jax.pruning.criteria.batch_norm import BatchNormScale
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.pruning.criteria.fisher import Fisher
from dynhp_jax.pruning.criteria.flexrel import FlexRel
from dynhp_jax.pruning.criteria.geometric_median import GeometricMedian
from dynhp_jax.pruning.criteria.gradient_norm import GradientNorm
from dynhp_jax.pruning.criteria.l1 import L1
from dynhp_jax.pruning.criteria.l2 import L2
from dynhp_jax.pruning.criteria.mean_activation import MeanActivation
from dynhp_jax.pruning.criteria.random import Random
from dynhp_jax.pruning.criteria.relevance import Relevance
from dynhp_jax.pruning.criteria.taylor import Taylor
from dynhp_jax.pruning.criteria.velocity import Velocity

# A new criterion: its file, and its line here. A user's own needs no line: pass the object.
CRITERIA: dict[str, Callable[..., Criterion]] = {
    "activation": ActivationRate,
    "l1": L1,
    "l2": L2,
    "batch_norm": BatchNormScale,
    "taylor": Taylor,
    "fisher": Fisher,
    "mean_activation": MeanActivation,
    "geometric_median": GeometricMedian,
    "gradient_norm": GradientNorm,
    "velocity": Velocity,
    "relevance": Relevance,
    "flexrel": FlexRel,
    "random": Random,
}


def get_criterion(name: str, **options) -> Criterion:
    """The criterion of a name.

    Args:
      name: a key of CRITERIA.
      **options: fields of its class.

    Raises:
      UserError: an unknown name, option or value; the message says what is allowed.
    """
    if name not in CRITERIA:
        raise UserError(f"there is no criterion {name!r}; allowed: {', '.join(CRITERIA)}")
    known = [field.name for field in dataclasses.fields(CRITERIA[name])]
    check_options(f"criterion {name!r}", options, known)
    return CRITERIA[name](**options)
