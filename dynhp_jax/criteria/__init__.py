"""Importance scores: one file per criterion, each a number per unit of every group.

>>> get("l1", members="both")
L1(members='both', scale='mean', reduction='mean')
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from dynhp_jax.criteria.activation import ActivationRate
from dynhp_jax.criteria.batch_norm import BatchNormScale
from dynhp_jax.criteria.evidence import Criterion, Evidence, check_losses, cross_entropy
from dynhp_jax.criteria.fisher import Fisher
from dynhp_jax.criteria.flexrel import FlexRel
from dynhp_jax.criteria.geometric_median import GeometricMedian
from dynhp_jax.criteria.gradient_norm import GradientNorm
from dynhp_jax.criteria.l1 import L1
from dynhp_jax.criteria.l2 import L2
from dynhp_jax.criteria.mean_activation import MeanActivation
from dynhp_jax.criteria.random import Random
from dynhp_jax.criteria.relevance import Relevance
from dynhp_jax.criteria.taylor import Taylor
from dynhp_jax.criteria.velocity import Velocity
from dynhp_jax.errors import UserError

__all__ = ["CRITERIA", "Criterion", "Evidence", "cross_entropy", "get", "score"]

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


def get(name: str, **options) -> Criterion:
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
    for option in options:
        if option not in known:
            raise UserError(
                f"criterion {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            )
    return CRITERIA[name](**options)


def score(criterion: str | Criterion, evidence: Evidence) -> dict[str, np.ndarray]:
    """Compiles a criterion, runs it and checks what it gives.

    Args:
      criterion: a name, or any hashable object with `scores(evidence)`; equal ones are compiled
        once for equal apply function, groups and shapes.
      evidence: what it looks at.

    Returns:
      Group name -> f32[units], finite; the units with the lowest go first.

    Raises:
      UserError: evidence that the criterion needs is missing, or an example's loss is not finite,
        or the criterion has no hash.
      ValueError: variables of other sizes than the groups', such as before a cut; scores of another
        shape, or that are not finite; the group is named.
    """
    if isinstance(criterion, str):
        criterion = get(criterion)
    try:
        hash(criterion)
    except TypeError:
        raise UserError(
            f"the criterion {type(criterion).__name__} cannot be hashed; make it a frozen dataclass"
            " whose fields can be"
        ) from None
    evidence.check_sizes()
    scores = _compiled(criterion, evidence)
    if not all(np.isfinite(np.asarray(s, np.float32)).all() for s in jax.tree.leaves(scores)):
        check_losses(evidence)  # whose scores are not finite either
    return check_scores(scores, evidence.groups)


@functools.partial(jax.jit, static_argnums=0)
def _compiled(criterion: Criterion, evidence: Evidence) -> dict[str, jax.Array]:
    return dict(criterion.scores(evidence))


def check_scores(scores, groups) -> dict[str, np.ndarray]:
    """The scores as f32 arrays on the host; raises ValueError for the wrong shape or no number."""
    groups.check_names(list(scores))
    checked = {}
    for name in [name for name in groups if name in scores]:
        value = np.asarray(scores[name], np.float32)
        if value.shape != (groups[name].size,):
            raise ValueError(
                f"scores of group {name!r} have shape {value.shape}; allowed: "
                f"({groups[name].size},), a number for each of its units"
            )
        if not np.isfinite(value).all():
            bad = int(np.flatnonzero(~np.isfinite(value))[0])
            raise ValueError(
                f"the score of unit {bad} of group {name!r} is {value[bad]}; allowed: finite"
            )
        checked[name] = value
    return checked
