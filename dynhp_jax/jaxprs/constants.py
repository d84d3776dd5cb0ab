"""Which results of equations that hold jaxprs depend on no variable and no input.

Rules ask before they look into a loop or branch: what it carries is a constant only if every step
makes a constant of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

CALLS = (
    "jit",
    "pjit",
    "call",
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
# Calls of functions with a derivative of their own. They see one copy of each constant.
OWN_DERIVATIVE = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """(jaxpr, constants) of a closed or an open jaxpr (from jax 0.12 on they are one class)."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def called_jaxpr(params: dict[str, Any]) -> Any:
    """The jaxpr that a call-like equation runs once on its operands."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in params:
            return params[name]
    raise ValueError(f"no jaxpr among {sorted(params)}")


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan all steps share, and how many it carries; the rest is stacked."""
    if "ft_in" in params:  # from jax 0.12 on
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def constant_results(jaxpr: Any, operands: Sequence[bool]) -> list[bool]:
    """Of a jaxpr, given which of its operands are constants."""
    jaxpr, _ = open_jaxpr(jaxpr)
    varies = {v for v, constant in zip(jaxpr.invars, operands, strict=True) if not constant}

    def constant(atom: Any) -> bool:
        return isinstance(atom, jex.Literal) or atom not in varies

    for eqn in jaxpr.eqns:
        results = _of_equation(eqn, [constant(atom) for atom in eqn.invars])
        varies.update(v for v, same in zip(eqn.outvars, results, strict=True) if not same)
    return [constant(atom) for atom in jaxpr.outvars]


def _of_equation(eqn: Any, operands: list[bool]) -> list[bool]:
    name = eqn.primitive.name
    if all(operands) or not any(operands):
        return [all(operands)] * len(eqn.outvars)
    if name == "scan":
        return constant_results(eqn.params["jaxpr"], constant_in_steps(eqn.params, operands))
    if name == "while":
        return constant_in_rounds(eqn.params, operands)
    if name == "cond":
        return constant_in_branches(eqn.params, operands)
    if name in CALLS and name not in OWN_DERIVATIVE:
        return constant_results(called_jaxpr(eqn.params), operands)
    return [False] * len(eqn.outvars)


def constant_in_steps(params: dict[str, Any], operands: list[bool]) -> list[bool]:
    """Which operands of a scan's body are constants; `operands`: those of the scan."""
    consts, carry = scan_counts(params)
    return _carried(params["jaxpr"], operands, consts, carry)


def constant_in_rounds(params: dict[str, Any], operands: list[bool]) -> list[bool]:
    """Which arrays a while loop carries are constants."""
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    carry = len(operands) - of_test - of_body
    inside = _carried(params["body_jaxpr"], operands[of_test:], of_body, carry)[of_body:]
    # How often it goes round may depend on what varies.
    rounds = all(constant_results(params["cond_jaxpr"], [*operands[:of_test], *inside]))
    return [rounds and each for each in inside]


def constant_in_branches(params: dict[str, Any], operands: list[bool]) -> list[bool]:
    """Which results of a choice between branches are constants."""
    found = [constant_results(branch, operands[1:]) for branch in params["branches"]]
    return [operands[0] and all(each) for each in zip(*found, strict=True)]


def _carried(body: Any, operands: list[bool], consts: int, carry: int) -> list[bool]:
    """Operands, of which those that are carried stay constants only if the results are."""
    while True:
        after = constant_results(body, operands)[:carry]
        before = operands[consts : consts + carry]
        both = [a and b for a, b in zip(before, after, strict=True)]
        if both == before:
            return operands
        operands = [*operands[:consts], *both, *operands[consts + carry :]]
