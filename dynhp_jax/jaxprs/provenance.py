"""Which leaves of the variables a value was computed of, and whether its entries are theirs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dynhp_jax.jaxprs.values import MOVES, Value

# Primitives that take parts of an array, or turn it round.
PARTS = {"slice", "dynamic_slice", "split", "unstack", "squeeze", "rev"}


def with_provenance(eqn: Any, operands: list[Value], result: Value) -> Value:
    """A result of an equation with its sources, and what of them it is; see `Value`."""
    moves = eqn.primitive.name in MOVES
    if moves and operands[0].summed:
        result = dataclasses.replace(result, summed=operands[0].summed)
    part = bool(operands) and operands[0].distinct and _keeps_apart(eqn, operands)
    distinct = result.distinct or part  # a body has told of its results
    if result.sources:
        return dataclasses.replace(result, distinct=distinct)
    variable = [v for v in operands if not v.is_constant]
    if not variable or not all(v.sources for v in variable):
        return result
    sources = frozenset().union(*(v.sources for v in variable))
    linear = distinct and moves and operands[0].linear
    return dataclasses.replace(result, sources=sources, linear=linear, distinct=distinct)


def _keeps_apart(eqn: Any, operands: list[Value]) -> bool:
    """Whether each entry of the results is an entry of the first operand, none of them twice."""
    name = eqn.primitive.name
    if name in MOVES:
        return eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    if name == "gather":
        return _looks_up_once(eqn, operands[1])
    return name in PARTS


def _looks_up_once(eqn: Any, indices: Value) -> bool:
    """Whether a gather takes rows at known positions, each of them once, or a single one."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims or any(sizes[d] != 1 for d in numbers.start_index_map):
        return False
    if len(indices.axes) == 1:
        return True
    if indices.const is None:
        return False
    places = indices.const.reshape(-1, indices.const.shape[-1])
    limits = [eqn.invars[0].aval.shape[d] for d in numbers.start_index_map]
    inside = bool(((places >= 0) & (places < limits)).all())
    return inside and np.unique(places, axis=0).shape == places.shape
