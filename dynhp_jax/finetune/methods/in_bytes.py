"""How many numbers a method may train, where its budget is in bytes of the training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from dynhp_jax.common import byte_sizes
from dynhp_jax.common.errors import ArgumentError, UserError, shown
from dynhp_jax.finetune.methods.leaves import Leaves
from dynhp_jax.memory import largest_fit

SLACK = 20  # a part so small of what there is for rows may be left over,
LEAST = 500  # or such a part of all: more would cost more compilations


def parsed(budget: str) -> int:
    """Bytes.

    Raises:
      UserError: it is no such text.
    """
    try:
        return byte_sizes.parse_bytes(budget)
    except ArgumentError as error:
        raise UserError(
            f"budget is {shown(budget)}; allowed: numbers of one example, 0 or more, or as a text"
            f" {error.allowed}"
        ) from None


def in_numbers(
    method: Leaves,
    apply: Callable,
    shapes: Any,
    inputs: Any,
    measure: Callable[[Leaves], int],
) -> Leaves:
    """The method with the most numbers whose step takes no more than its bytes.

    Choices of as many rows of each kernel are one program: it is compiled once. Mostly 5 or 6 are.

    Args:
      method: a `Selection` whose budget is in bytes.
      apply, shapes, inputs, measure: see `Extension.within`.

    Raises:
      UserError: the bytes are too few; it says how many are enough for one row.
    """
    limit, seen = parsed(method.budget), {}

    def of(numbers: int) -> Leaves:
        return dataclasses.replace(method, budget=numbers)

    def size(numbers: int) -> int:
        quotas = of(numbers).bound(apply, shapes, inputs).quotas
        rows = tuple((path, quota.rows) for path, quota in quotas.items())
        if rows not in seen:
            seen[rows] = measure(of(numbers))
        return seen[rows]

    costs = _chosen(of, apply, shapes, inputs)
    low, high = min(cost.row for cost in costs), sum(cost.total for cost in costs)
    slack = max(1, limit // LEAST, (limit - size(low)) // SLACK)
    found = largest_fit.largest(size, limit, low, high, slack=slack)
    if found < low:
        raise UserError(
            f"a budget of {byte_sizes.kib(limit)} is too small for a training step; the least that"
            f" works is {byte_sizes.kib(size(low), up=True)}, which trains the head and one row of"
            f" {low} numbers"
        )
    return of(found)


def _chosen(of: Callable[[int], Leaves], apply: Callable, shapes: Any, inputs: Any) -> list:
    """The costs of the kernels whose rows may be trained."""
    everything = 2**62
    return [quota.cost for quota in of(everything).bound(apply, shapes, inputs).quotas.values()]
