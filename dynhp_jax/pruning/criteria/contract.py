"""What a criterion has to be, and what it has to give: checked, with its name in the message."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import UserError
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence, UnitScores
from dynhp_jax.structure.groups import Groups


def name_of(criterion: Criterion) -> str:
    """How a config would name a criterion, but for its options.

    >>> import fractions
    >>> name_of(fractions.Fraction(1))
    'fractions:Fraction'
    """
    kind = criterion if isinstance(criterion, type) else type(criterion)
    return f"{kind.__module__}:{kind.__qualname__}"


def title(criterion: Criterion, called: str = "") -> str:
    """How a message names a criterion: as it was called, or by its class."""
    return f"criterion {called or name_of(criterion)!r}"


def is_own(criterion: Criterion) -> bool:
    """Whether it is somebody's own code: errors of the library's own are bugs of the library."""
    return not str(type(criterion).__module__).startswith(f"{__package__}.")


def guarded(criterion: Criterion, called: str = "") -> contextlib.AbstractContextManager[None]:
    """Within it a criterion of one's own that raises is one line that names it."""
    if not is_own(criterion):
        return contextlib.nullcontext()
    return own_code.guarded(title(criterion, called), within=title(criterion))


def check_object(criterion: Criterion, called: str = "") -> None:
    """Raises UserError for one that cannot be hashed, or whose `earlier_epochs` are no number."""
    with guarded(criterion, called):
        check_hash(criterion)
        equal = bool(criterion == criterion)
        if not equal:
            raise UserError("it is not equal to itself; make it a frozen dataclass")
        found = earlier_epochs(criterion)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise UserError(f"its earlier_epochs are {found!r}; allowed: a whole number, 0 or more")


def check_hash(criterion: Criterion) -> None:
    """Raises UserError for a criterion that cannot be hashed."""
    try:
        hash(criterion)
    except TypeError:
        raise UserError(
            f"the criterion {type(criterion).__name__} cannot be hashed; make it a frozen dataclass"
            " whose fields can be"
        ) from None


def earlier_epochs(criterion: Criterion | None) -> int:
    """How many earlier epochs' variables a criterion looks at; see `Criterion`."""
    return getattr(criterion, "earlier_epochs", 0)


def scores_of(criterion: Criterion, evidence: Evidence) -> UnitScores:
    """What it gives, as `checked`; whatever it raises names it."""
    with guarded(criterion):
        return checked(criterion.scores(evidence), evidence.groups)


def checked(found: Any, groups: Groups) -> UnitScores:
    """What a criterion gave, checked by types and shapes alone, so that it can be traced.

    Raises:
      UserError: no mapping, a name that is no group's, or no array of real numbers, one for each
        unit.
    """
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise UserError(f"its scores are of the type {kind}; allowed: {{group: numbers}}")
    for name, value in found.items():
        _check_name(name, groups)
        _check_array(name, value, groups[name].size)
    return dict(found)


def _check_name(name: Any, groups: Groups) -> None:
    if not isinstance(name, str):
        raise UserError(f"its scores have a group {name!r}; allowed: names of groups")
    try:
        groups.check_names([name])
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_array(name: str, value: Any, size: int) -> None:
    if not isinstance(value, jax.Array | np.ndarray):
        raise UserError(
            f"scores of group {name!r} are of the type {type(value).__name__}; allowed: an array of"
            f" the shape ({size},), a number for each of its units"
        )
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise UserError(f"scores of group {name!r} are {value.dtype}; allowed: real numbers")
    if value.shape != (size,):
        raise UserError(
            f"scores of group {name!r} have shape {value.shape}; allowed: ({size},), a number for"
            " each of its units"
        )


def check_scores(scores: Mapping[str, Any], groups: Groups) -> dict[str, np.ndarray]:
    """The scores as f32 arrays on the host, in the order of the groups.

    Raises:
      UserError: a name that is no group's, another shape, or a score that is not finite.
    """
    for name, value in scores.items():
        _check_name(name, groups)
        _check_array(name, np.asarray(value), groups[name].size)
    found = {name: np.asarray(scores[name], np.float32) for name in groups if name in scores}
    for name, value in found.items():
        if not np.isfinite(value).all():
            bad = int(np.flatnonzero(~np.isfinite(value))[0])
            raise UserError(
                f"the score of unit {bad} of group {name!r} is {value[bad]}; allowed: finite"
            )
    return found
