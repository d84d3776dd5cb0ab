"""`score`: compiles a criterion, runs it and checks its result."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dynhp_jax.common import own_code
from dynhp_jax.pruning.criteria import chunks, contract
from dynhp_jax.pruning.criteria.contract import check_scores
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence, check_losses
from dynhp_jax.pruning.criteria.registry import get_criterion


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
        criterion = get_criterion(criterion)
    evidence.check_sizes()
    with contract.guarded(criterion, called):
        contract.check_hash(criterion)
        scores = jax.device_get(chunks.run(criterion, evidence, chunk, execute))
    if not all(np.isfinite(np.asarray(s, np.float32)).all() for s in scores.values()):
        # Whose scores are not finite either.
        check_losses(evidence, chunks.parts(evidence, chunk or evidence.examples))
    with own_code.guarded(contract.title(criterion, called)):
        return check_scores(scores, evidence.groups)
