"""Primitives that hold jaxprs: calls, loops, branches, functions with their own derivatives."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynhp_jax.jaxprs.analysis import analyse
from dynhp_jax.jaxprs.constants import (
    CALLS,
    OWN_DERIVATIVE,
    called_jaxpr,
    constant_in_branches,
    constant_in_rounds,
    constant_in_steps,
    open_jaxpr,
    scan_counts,
)
from dynhp_jax.jaxprs.values import SPOILED, Bodies, Value, Walk, body_rule, follows

follows(*CALLS)(lambda walk, eqn, operands, results: results)  # it was followed inside


@body_rule(*CALLS)
def _call(walk: Walk, eqn: Any, operands: list[Value]) -> Bodies:
    jaxpr, consts = open_jaxpr(called_jaxpr(eqn.params))
    if eqn.primitive.name in OWN_DERIVATIVE and not all(v.is_constant for v in operands):
        return _with_own_derivative(walk, jaxpr, consts, operands)
    inner = analyse(walk, jaxpr, consts, operands)
    return operands, inner.outputs, [inner]


def _with_own_derivative(walk: Walk, jaxpr: Any, consts: list, operands: list[Value]) -> Bodies:
    """The function's derivative is another jaxpr, which has to see the same positions."""
    operands = [walk.own_copy(value) for value in operands]
    for value in operands:
        walk.bind(value)
    inner = analyse(walk, jaxpr, consts, operands, [False] * len(jaxpr.outvars))
    for value in inner.outputs:
        walk.bind(value)
    return operands, inner.outputs, [inner]


def _rest(value: Value) -> Value:
    """What one step of a loop sees of an array that is stacked along its first axis."""
    axes = value.axes[1:]
    return Value(axes, None, value.is_constant, value.sources, value.linear, value.distinct)


def _again(values: list[Value]) -> list[Value]:
    """What every step of a loop sees of the arrays that all steps share.

    They are no longer plain leaves: their gradient is a sum over steps, whose norm has no closed
    form.
    """
    return [dataclasses.replace(value, linear=False, distinct=False) for value in values]


def tie(walk: Walk, before: list[Value], after: list[Value]) -> None:
    """Arrays of the same shapes share their axes."""
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old.axes, new.axes, strict=True):
            walk.labels.unify(a, b, "a loop or branch with axes that divide differently")


def _results(walk: Walk, values: list[Value], *ends: list[Value]) -> list[Value]:
    """The results of a loop or of branches: positions are mere numbers there."""
    results = []
    for value, *each in zip(values, *ends, strict=True):
        for end in each:
            walk.as_number(end, "the end of a loop or branch")
        spoiled = any(end.index for end in each)
        results.append(dataclasses.replace(value, index=SPOILED if spoiled else None))
    return results


def _start(walk: Walk, operands: list[Value], constant: list[bool]) -> list[Value]:
    """What a loop carries. All its steps see the same positions."""
    start = []
    for value, stays in zip(operands, constant, strict=True):
        axes = value.axes if stays else walk.own_copy(value).axes
        start.append(Value(axes, is_constant=stays))
        walk.bind(start[-1])
    return start


@body_rule("scan")
def _scan(walk: Walk, eqn: Any, operands: list[Value]) -> Bodies:
    p = eqn.params
    consts, carry = scan_counts(p)
    jaxpr, closed = open_jaxpr(p["jaxpr"])
    constant = constant_in_steps(p, [v.is_constant for v in operands])[consts : consts + carry]
    start = _start(walk, operands[consts : consts + carry], constant)
    stacked = operands[consts + carry :]
    for value in stacked:
        walk.labels.pin_axis(value.axes[0], "the axis that a scan runs over")
    walk.repeats, outer = walk.repeats * p["length"], walk.repeats
    steps = [*_again(operands[:consts]), *start, *(_rest(v) for v in stacked)]
    of_each = [True] * (len(jaxpr.outvars) - carry)
    inner = analyse(walk, jaxpr, closed, steps, [*constant, *of_each])
    walk.repeats = outer
    tie(walk, start, inner.outputs[:carry])
    results = _results(walk, start, inner.outputs[:carry])
    for value in inner.outputs[carry:]:
        length = walk.pinned_axes((p["length"],), "the axis that a scan runs over")
        axes, constant = (*length, *value.axes), value.is_constant
        results.append(Value(axes, is_constant=constant, index=value.index))
    return [*operands[:consts], *start, *stacked], results, [inner]


@body_rule("while")
def _while(walk: Walk, eqn: Any, operands: list[Value]) -> Bodies:
    p = eqn.params
    nc, nb = p["cond_nconsts"], p["body_nconsts"]
    constant = constant_in_rounds(p, [v.is_constant for v in operands])
    start = _start(walk, operands[nc + nb :], constant)
    body, body_consts = open_jaxpr(p["body_jaxpr"])
    cond, cond_consts = open_jaxpr(p["cond_jaxpr"])
    inner = analyse(walk, body, body_consts, [*_again(operands[nc : nc + nb]), *start], constant)
    tie(walk, start, inner.outputs)
    test = analyse(walk, cond, cond_consts, [*operands[:nc], *start])
    results = _results(walk, start, inner.outputs)
    return [*operands[: nc + nb], *start], results, [test, inner]


@body_rule("cond")
def _cond(walk: Walk, eqn: Any, operands: list[Value]) -> Bodies:
    constant = constant_in_branches(eqn.params, [v.is_constant for v in operands])
    inner = []
    for branch in eqn.params["branches"]:
        jaxpr, consts = open_jaxpr(branch)
        inner.append(analyse(walk, jaxpr, consts, operands[1:], constant))
    results = [Value(v.axes, is_constant=v.is_constant) for v in inner[0].outputs]
    for other in inner[1:]:
        tie(walk, results, other.outputs)
    results = _results(walk, results, *(body.outputs for body in inner))
    return operands, results, inner
