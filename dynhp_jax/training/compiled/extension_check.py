"""Whether an extension fits a run: found by shapes alone, before anything is compiled."""

from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import guarded
from dynhp_jax.training.compiled.steps import Steps
from dynhp_jax.training.extension import PLAIN, Extension


def check(steps: Steps) -> None:
    """Whether a step and an evaluation of the whole network can be traced with the extension.

    Raises:
      UserError: they cannot, or a step changes the structure, a shape or a type of the state.
    """
    if steps.whole.unbound == PLAIN:
        return
    with guarded(whose(steps.whole.unbound)):
        before, after = steps.state_shapes(steps.whole), steps.state_after_a_step(steps.whole)
        check_alike(before.own, after.own, "what it keeps")
        check_alike(before.variables, after.variables, "the variables")
        steps.sums_of_an_evaluation(steps.whole)


def whose(extension: Extension) -> str:
    """What an error of this extension begins with."""
    return f"extension {extension!r}"


def check_alike(before: Any, after: Any, what: str) -> None:
    """Raises UserError where a tree of arrays has another structure, shape or type than before."""
    if found := difference(before, after):
        raise UserError(f"{what} has {found}")


def difference(before: Any, after: Any) -> str:
    """What of a tree of arrays, or of shapes, is another afterwards; '' if nothing is."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        return "another structure afterwards; allowed: the one that it had"
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        shape, kind = np.shape(new), _in_jax(new.dtype)
        if (old.shape, old.dtype) != (shape, kind):
            return (
                f"an array {kind}{list(shape)} afterwards that was"
                f" {old.dtype}{list(old.shape)}; allowed: the same shape and type"
            )
    return ""


def _in_jax(dtype: Any) -> Any:
    """The type that JAX gives an array of this type; typed keys have one of their own."""
    own = jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
    return dtype if own else jax.dtypes.canonicalize_dtype(dtype)
