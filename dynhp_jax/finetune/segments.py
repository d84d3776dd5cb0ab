"""A model in segments, of which the backward pass has what they read alone, and computes the rest.

`jax.checkpoint` of a whole model lowers no peak: all of it is computed anew, and kept, at once. In
segments one after the other is. Exact; it costs about one more forward pass. The trace is cut at
equal numbers of products, so that no model has to name its blocks.

Source: Chen et al. 2016 (1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from dynhp_jax.common.errors import UserError, shown

_PRODUCTS = ("dot_general", "conv_general_dilated")


def in_segments(apply: Callable, count: int) -> Callable:
    """The model in so many segments.

    Args:
      apply: `apply(*arguments) -> outputs`.
      count: of segments, 1 or more; a model with fewer products has one for each of them.

    Raises:
      UserError: no such count.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"count is {shown(count)}; allowed: a number of segments, 1 or more")

    def f(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(apply, return_shape=True)(*arguments)
        jaxpr, values = closed.jaxpr, {}
        values.update(zip(jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(arguments), strict=True))
        parts = _parts(jaxpr.eqns, count)
        for k, eqns in enumerate(parts):
            later = [var for part in parts[k + 1 :] for eqn in part for var in eqn.invars]
            made = [var for eqn in eqns for var in eqn.outvars]
            kept = _among(made, [*later, *jaxpr.outvars])
            known = set(made)
            read = _among(values, [v for eqn in eqns for v in eqn.invars if _is_new(v, known)])
            function = jex.jaxpr_as_fun(
                jex.ClosedJaxpr(
                    jaxpr.replace(
                        constvars=[], invars=read, outvars=kept, eqns=list(eqns),
                        debug_info=jaxpr.debug_info.with_unknown_names(),
                    ),
                    [],
                )
            )  # fmt: skip
            found = jax.checkpoint(function)(*(values[var] for var in read))
            values.update(zip(kept, found, strict=True))
        outputs = [v.val if isinstance(v, jex.Literal) else values[v] for v in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return f


def _is_new(var: Any, made: set) -> bool:
    return not isinstance(var, jex.Literal) and var not in made


def _among(some: Any, read: Sequence[Any]) -> list[Any]:
    """Those of some variables that are read, in their order."""
    wanted = {var for var in read if not isinstance(var, jex.Literal)}
    return [var for var in dict.fromkeys(some) if var in wanted]


def _parts(eqns: Sequence[Any], count: int) -> list[list[Any]]:
    """The equations in so many parts, each of as many products."""
    products = sum(eqn.primitive.name in _PRODUCTS for eqn in eqns)
    parts: list[list[Any]] = [[] for _ in range(max(1, min(count, products)))]
    seen = 0
    for eqn in eqns:
        parts[min(seen * len(parts) // max(products, 1), len(parts) - 1)].append(eqn)
        seen += eqn.primitive.name in _PRODUCTS
    return parts
