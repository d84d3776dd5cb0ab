"""Primitives that hold jaxprs: calls, loops, branches, functions with their own derivatives."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynhp_jax.jaxprs.walk import SPOILED, Analysis, Value, Walk, analyse, body_rule, follows


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """(jaxpr, constants) of a closed or an open jaxpr (from jax 0.12 on they are one class)."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def called_jaxpr(params: dict[str, Any]) -> Any:
    """The jaxpr that a call-like equation runs once on its operands."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in params:
            return params[name]
    raise ValueError(f"no jaxpr among {sorted(params)}")


CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "custom_lin",
)


follows(*CALLS)(lambda walk, eqn, operands, results: results)  # it was followed inside


@body_rule(*CALLS)
def _call(walk: Walk, eqn: Any, operands: list[Value]) -> tuple[list[Value], list[Analysis]]:
    jaxpr, consts = open_jaxpr(called_jaxpr(eqn.params))
    inner = analyse(walk, jaxpr, consts, operands)
    return inner.outputs, [inner]


def _rest(value: Value) -> Value:
    """What one step of a loop sees of an array that is stacked along its first axis."""
    return Value(value.axes[1:], None, value.sources, value.linear)


def _again(values: list[Value]) -> list[Value]:
    """What every step of a loop sees of the arrays that all steps share.

    They are no longer plain leaves: their gradient is a sum over steps, whose norm has no closed
    form.
    """
    return [dataclasses.replace(value, linear=False) for value in values]


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


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan all steps share, and how many it carries; the rest is stacked."""
    if "ft_in" in params:  # from jax 0.12 on
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


@body_rule("scan")
def _scan(walk: Walk, eqn: Any, operands: list[Value]) -> tuple[list[Value], list[Analysis]]:
    p = eqn.params
    consts, carry = scan_counts(p)
    jaxpr, closed = open_jaxpr(p["jaxpr"])
    start = [Value(v.axes) for v in operands[consts : consts + carry]]
    stacked = operands[consts + carry :]
    for value in stacked:
        walk.labels.pin_axis(value.axes[0], "the axis that a scan runs over")
    walk.repeats, outer = walk.repeats * p["length"], walk.repeats
    shared = _again(operands[:consts])
    inner = analyse(walk, jaxpr, closed, [*shared, *start, *(_rest(v) for v in stacked)])
    walk.repeats = outer
    tie(walk, start, inner.outputs[:carry])
    results = _results(walk, start, inner.outputs[:carry])
    for value in inner.outputs[carry:]:
        steps = walk.pinned_axes((p["length"],), "the axis that a scan runs over")
        results.append(Value((*steps, *value.axes), index=value.index))
    return results, [inner]


@body_rule("while")
def _while(walk: Walk, eqn: Any, operands: list[Value]) -> tuple[list[Value], list[Analysis]]:
    p = eqn.params
    nc, nb = p["cond_nconsts"], p["body_nconsts"]
    start = [Value(v.axes) for v in operands[nc + nb :]]
    body, body_consts = open_jaxpr(p["body_jaxpr"])
    cond, cond_consts = open_jaxpr(p["cond_jaxpr"])
    inner = analyse(walk, body, body_consts, [*_again(operands[nc : nc + nb]), *start])
    tie(walk, start, inner.outputs)
    test = analyse(walk, cond, cond_consts, [*operands[:nc], *start])
    return _results(walk, start, inner.outputs), [test, inner]


@body_rule("cond")
def _cond(walk: Walk, eqn: Any, operands: list[Value]) -> tuple[list[Value], list[Analysis]]:
    inner = []
    for branch in eqn.params["branches"]:
        jaxpr, consts = open_jaxpr(branch)
        inner.append(analyse(walk, jaxpr, consts, operands[1:]))
    results = [Value(v.axes) for v in inner[0].outputs]
    for other in inner[1:]:
        tie(walk, results, other.outputs)
    return _results(walk, results, *(body.outputs for body in inner)), inner
