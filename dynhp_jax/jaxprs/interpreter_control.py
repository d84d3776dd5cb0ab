"""Equations that hold jaxprs: run on what is left, with hooks inside, still differentiable.

A rule maps (run, analysis, index of the equation in it, equation, operands) to the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import linear_util as lu

from dynhp_jax.jaxprs.analysis import analyse
from dynhp_jax.jaxprs.constants import CALLS, open_jaxpr, scan_counts
from dynhp_jax.jaxprs.interpreter import BODIES, Run, bind
from dynhp_jax.jaxprs.rules.control import tie
from dynhp_jax.jaxprs.trace import typed_as
from dynhp_jax.jaxprs.values import Analysis, Value

_SYMBOLIC = (
    "with symbolic_zeros=True it cannot be made smaller; define it without, or do not cut the"
    " groups whose units it computes with"
)


def _body(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        BODIES.update(dict.fromkeys(names, function))
        return function

    return register


@_body(*CALLS)
def _inline(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    return run(analysis.inner[index][0], args)


@_body("remat", "remat2", "checkpoint")
def _remat(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    body = jax.checkpoint(
        lambda *operands: tuple(run(analysis.inner[index][0], operands)),
        prevent_cse=eqn.params.get("prevent_cse", True),
        policy=eqn.params.get("policy"),
    )
    return list(body(*args))


def _custom(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list | None:
    """Results of a function with its own derivative, unless some of its operands are cut."""
    inner = analysis.inner[index][0]
    changed = run.hook.around(inner, analysis.operands[index], args)
    if isinstance(changed, str):
        results = run(inner, args)
        return results if run.hook.values_only else _without_derivative(results, inner, changed)
    if run.dead is None or not _any_cut(run, inner):
        return list(bind(eqn, changed))
    return None


def _without_derivative(results: list, function: Analysis, why: str) -> list:
    """The same results, which raise ValueError when they are differentiated."""
    name = getattr(function.jaxpr.debug_info, "func_name", "a function")
    name = name.split(" at ")[0]

    @jax.custom_jvp
    def same(x: Any) -> Any:
        return x

    @same.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise ValueError(f"{name!r} has a derivative of its own, which would be lost: {why}")

    return [same(x) for x in results]


def _any_cut(run: Run, analysis: Analysis) -> bool:
    values = (*analysis.values.values(), *analysis.outputs)
    return any(run.is_cut(axis) for value in values for axis in value.axes) or any(
        _any_cut(run, body) for bodies in analysis.inner.values() for body in bodies
    )


@_body("custom_jvp_call")
def _custom_jvp(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    done = _custom(run, analysis, index, eqn, args)
    if done is not None:
        return done
    inner = analysis.inner[index][0]
    values = analysis.operands[index]
    consts, results = eqn.params["num_consts"], [analysis.values[var] for var in eqn.outvars]
    params = eqn.primitive.get_bind_params(eqn.params)
    fun, jvp = params.pop("subfuns")

    def resized_jvp(*both: Any) -> list:
        half = len(both) // 2
        primals, tangents = both[consts:half], both[half + consts :]
        traced, traced_consts, zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(
            *[False] * len(tangents)
        )
        twice = [*values[consts:], *values[consts:]]
        rule = analyse(
            run.walk,
            traced,
            traced_consts,
            [Value(v.axes) for v in twice],
            [False] * len(traced.outvars),
        )
        changing = [v for v, z in zip(results, zeros, strict=True) if not z]
        tie(run.walk, [*results, *changing], rule.outputs)
        out = run(rule, [*primals, *tangents])
        count = len(zeros)
        known = iter(out[count:])
        return [
            *out[:count],
            *(jnp.zeros_like(p) if z else next(known) for p, z in zip(out, zeros, strict=False)),
        ]

    if eqn.params["symbolic_zeros"]:
        return _without_derivative(run(inner, args), inner, _SYMBOLIC)
    subfuns = (
        lu.wrap_init(lambda *operands: run(inner, operands), debug_info=fun.debug_info),
        lu.wrap_init(resized_jvp, debug_info=jvp.debug_info),
    )
    return list(eqn.primitive.bind(*args, **params, subfuns=subfuns))


@_body("custom_vjp_call")
def _custom_vjp(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    done = _custom(run, analysis, index, eqn, args)
    if done is not None:
        return done
    inner = analysis.inner[index][0]
    if eqn.params["symbolic_zeros"]:
        return _without_derivative(run(inner, args), inner, _SYMBOLIC)
    values = analysis.operands[index]
    consts, results = eqn.params["num_consts"], [analysis.values[var] for var in eqn.outvars]
    params = eqn.primitive.get_bind_params(eqn.params)
    fun, fwd, bwd = params.pop("subfuns")
    saved: list[tuple[Value, Any]] = []  # value and whole shape of what fwd passes to bwd

    def resized_fwd(*pairs: Any) -> list:
        primals, nonzero = pairs[::2][consts:], pairs[1::2][consts:]
        traced, traced_consts = eqn.params["fwd_jaxpr_thunk"].call_wrapped(*nonzero)
        count = len(traced.outvars) - len(results)
        rule = analyse(
            run.walk,
            traced,
            traced_consts,
            [Value(v.axes) for v in values[consts:]],
            [True] * count + [False] * len(results),
        )
        tie(run.walk, results, rule.outputs[count:])
        saved[:] = zip(rule.outputs[:count], traced.outvars[:count], strict=True)
        return run(rule, primals)

    def resized_bwd(*operands: Any) -> Any:
        computed = iter(saved)
        passed = [  # what fwd computes, and operands that it passes on
            next(computed) if k is None else (values[k], eqn.invars[k])
            for k in eqn.params["out_trees"]()[2]
        ]
        passed += zip(results, eqn.outvars, strict=True)
        whole = [
            typed_as(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype), v.aval) for _, v in passed
        ]
        given = [Value(value.axes, is_constant=value.is_constant) for value, _ in passed]
        out, log = [], []

        def cotangents(*operands: Any) -> list:
            found = bwd.call_wrapped(*operands)
            if isinstance(found, tuple) and isinstance(found[0], list):  # from jax 0.12 on
                found, log[:] = found[0], found[1:]
            out[:] = found
            return [c for c in out if isinstance(c, jax.core.Tracer)]

        jaxpr, jaxpr_consts = open_jaxpr(jax.make_jaxpr(cotangents)(*whole))
        rule = analyse(run.walk, jaxpr, jaxpr_consts, given, [False] * len(jaxpr.outvars))
        known = [isinstance(c, jax.core.Tracer) for c in out]
        tie(run.walk, rule.outputs, [v for v, k in zip(values, known, strict=True) if k])
        cotangent = iter(run(rule, operands))
        for k, value in enumerate(values):
            if known[k]:
                out[k] = next(cotangent)
            elif hasattr(out[k], "aval"):  # a zero of a shape
                out[k] = type(out[k])(out[k].aval.update(shape=run.shape(value)))
        return (out, *log) if log else out

    subfuns = (
        lu.wrap_init(lambda *operands: run(inner, operands), debug_info=fun.debug_info),
        lu.wrap_init(resized_fwd, debug_info=fwd.debug_info),
        lu.wrap_init(resized_bwd, debug_info=bwd.debug_info),
    )
    return list(eqn.primitive.bind(*args, **params, subfuns=subfuns))


@_body("scan")
def _scan(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    p, inner = eqn.params, analysis.inner[index][0]
    consts, carry = scan_counts(p)

    def step(state: tuple, xs: tuple) -> tuple:
        stacked, slices = xs
        with run.hook.in_step(inner, slices):
            out = run(inner, [*args[:consts], *state, *stacked])
        return tuple(out[:carry]), tuple(out[carry:])

    state, stacked = lax.scan(
        step,
        tuple(args[consts : consts + carry]),
        (tuple(args[consts + carry :]), tuple(run.hook.by_step(inner))),
        length=p["length"],
        reverse=p["reverse"],
        unroll=p["unroll"],
    )
    return [*state, *stacked]


@_body("while")
def _while(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    p, (test, inner) = eqn.params, analysis.inner[index]
    nc, nb = p["cond_nconsts"], p["body_nconsts"]
    return list(
        lax.while_loop(
            lambda state: run(test, [*args[:nc], *state])[0],
            lambda state: tuple(run(inner, [*args[nc : nc + nb], *state])),
            tuple(args[nc + nb :]),
        )
    )


@_body("cond")
def _cond(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    branches = [
        lambda *operands, body=body: tuple(run(body, operands)) for body in analysis.inner[index]
    ]
    return list(lax.switch(args[0].astype(jnp.int32), branches, *args[1:]))
