"""Which slopes a function of one array can have, read from its derivative's jaxpr.

The derivative of a piecewise linear function is made of constants by comparisons and choices alone.
So its possible values can be followed through the jaxpr as sets; where anything else computes it,
there is no finite set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from dynhp_jax.jaxprs.constants import CALLS, called_jaxpr, open_jaxpr

MOST = 16  # slopes: more would take more than four bits
_Values = frozenset | None  # the values that an array may hold; None if they are not known

_SAME = frozenset(("broadcast_in_dim", "reshape", "squeeze", "copy", "copy_p", "stop_gradient"))
_TESTS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "is_finite"))
_ARITHMETIC = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.abs,
}


def slopes(function: Callable, shape: tuple[int, ...], dtype: Any) -> tuple[float, ...] | None:
    """All values of the derivative of an elementwise function, ascending.

    Args:
      function: of one array, that can be differentiated forwards.
      shape: of the array.
      dtype: of the array.

    Returns:
      The slopes; None if they are not of a small finite set.

    >>> slopes(jax.nn.relu6, (4,), "float32"), slopes(jnp.tanh, (4,), "float32")
    ((0.0, 1.0), None)
    """

    def derivative(x: Any) -> Any:
        return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]

    closed = jax.make_jaxpr(derivative)(jax.ShapeDtypeStruct(shape, dtype))
    (found,) = _follow(closed, [None])
    if found is None or len(found) > MOST or not all(np.isfinite(value) for value in found):
        return None
    return tuple(sorted(map(float, found)))


def _follow(jaxpr: Any, inputs: Sequence[_Values]) -> list[_Values]:
    jaxpr, consts = open_jaxpr(jaxpr)
    known: dict[Any, _Values] = dict(zip(jaxpr.constvars, map(_of_array, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> _Values:
        return _of_array(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        results = _equation(eqn, [of(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, operands: list[_Values]) -> Sequence[_Values]:
    name = eqn.primitive.name
    if name in CALLS:
        return _follow(called_jaxpr(eqn.params), operands)
    if name in _TESTS:
        return [frozenset((False, True))]
    if name == "sign" and operands[0] is None:
        return [frozenset((-1.0, 0.0, 1.0))]
    if name == "select_n":
        cases = operands[1:]
        return [None if None in cases else frozenset().union(*cases)]
    if name in _SAME:
        return [operands[0]]
    if name == "convert_element_type" and operands[0] is not None:
        dtype = np.dtype(eqn.params["new_dtype"])
        return [frozenset(np.asarray(value).astype(dtype).item() for value in operands[0])]
    if name in _ARITHMETIC and None not in operands:
        return [_combined(_ARITHMETIC[name], operands, eqn.outvars[0].aval.dtype)]
    return [None] * len(eqn.outvars)


def _combined(function: Callable, operands: list[_Values], dtype: Any) -> _Values:
    found = set()
    for values in itertools.product(*operands):
        with np.errstate(all="ignore"):
            found.add(function(*(np.asarray(value, dtype) for value in values)).item())
        if len(found) > 4 * MOST:
            return None
    return frozenset(found)


def _of_array(array: Any) -> _Values:
    if isinstance(array, jax.core.Tracer) or np.size(array) > 2**12:
        return None
    found = np.unique(np.asarray(array))
    return frozenset(found.tolist()) if found.size <= MOST else None
