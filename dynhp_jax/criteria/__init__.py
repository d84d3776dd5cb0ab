"""Importance scores: one file per criterion, each a number per unit of every group.

>>> get("l1", members="both")
L1(members='both', scale='mean', reduction='mean')
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dynhp_jax import own_code
from dynhp_jax.criteria import chunks, contract
from dynhp_jax.criteria.activation import ActivationRate
from dynhp_jax.criteria.batch_norm import BatchNormScale
from dynhp_jax.criteria.chunks import Summed
from dynhp_jax.criteria.contract import check_scores
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

__all__ = [
    "CRITERIA",
    "Criterion",
    "Evidence",
    "Summed",
    "check_scores",
    "cross_entropy",
    "get",
    "score",
]

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


def _jitted(piece: chunks.Piece, *arguments: Any) -> Any:
    """Compiles a piece once for equal criterion, apply function, groups and shapes."""
    return _compiling(piece)(*arguments)


@functools.cache
def _compiling(piece: chunks.Piece) -> Callable:
    return jax.jit(
        piece.function, static_argnums=tuple(range(piece.statics)), donate_argnums=piece.donated
    )


def score(
    criterion: str | Criterion,
    evidence: Evidence,
    called: str = "",
    chunk: int | None = None,
    execute: Callable[..., Any] = _jitted,
) -> dict[str, np.ndarray]:
    """Compiles a criterion, runs it and checks what it gives.

    Args:
      criterion: a name, or any hashable object with `scores(evidence)`; equal ones are compiled
        once for equal apply function, groups and shapes.
      evidence: what it looks at.
      called: how errors call it; '' for `module:Class`.
      chunk: how many examples a criterion that is `Summed` looks at at a time; None for all. NumPy
        arrays stay on the host until then.
      execute: `execute(piece, *arguments)` compiles and calls the function of a `chunks.Piece`;
        `jax.jit` by default.

    Returns:
      Group name -> f32[units], finite; the units with the lowest go first.

    Raises:
      UserError: evidence that the criterion needs is missing, an example's loss is not finite, the
        criterion has no hash, gives what are no finite numbers, one for each unit of a group, or a
        chunk is no number of examples.
      OwnCodeError: one that is not the library's own does so, or raises anything else; it is named.
      ValueError: variables of other sizes than the groups', such as before a cut.
    """
    if isinstance(criterion, str):
        criterion = get(criterion)
    evidence.check_sizes()
    with contract.guarded(criterion, called):
        contract.check_hash(criterion)
        scores = jax.device_get(chunks.run(criterion, evidence, chunk, execute))
    if not all(np.isfinite(np.asarray(s, np.float32)).all() for s in scores.values()):
        # Whose scores are not finite either.
        check_losses(evidence, chunks.parts(evidence, chunk or evidence.examples))
    with own_code.guarded(contract.title(criterion, called)):
        return check_scores(scores, evidence.groups)
