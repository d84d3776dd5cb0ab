"""Running an analysed jaxpr: with some units cut, and with hooks where units are read.

A run re-binds every equation. Where an axis has lost positions, the shapes that an equation carries
among its parameters are counted anew from the labels; where it holds positions as values (iota,
constants, random bits) the surviving ones are taken. What a hook sees and changes are the operands
of matrix products and convolutions, the places where units are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jax.extend import linear_util as lu

from dynhp_jax.jaxprs.control import CALLS
from dynhp_jax.jaxprs.indexing import static_gather_axis
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.walk import Analysis, Value, Walk, analyse


class Hook:
    """What a transform does to equations as they run."""

    def operands(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        """The operands of an equation, perhaps changed."""
        return args

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        """The results of an equation; `run(*args)` gives the ordinary ones."""
        return run(*args)


@dataclasses.dataclass(eq=False)
class Run:
    """One evaluation: which atoms are cut, which hooks act."""

    walk: Walk
    dead: np.ndarray | None = None  # atoms that are cut
    hook: Hook = dataclasses.field(default_factory=Hook)

    def alive(self, axis: Axis) -> np.ndarray:
        """bool[size]: the surviving positions of an axis."""
        return self.walk.labels.alive(axis, self.walk.labels.dead_mask(self.dead))

    def is_cut(self, axis: Axis) -> bool:
        return self.dead is not None and not self.alive(axis).all()

    def size(self, axis: Axis) -> int:
        if self.dead is None:
            return axis_size(axis)
        return int(np.count_nonzero(self.alive(axis)))

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(self.size(axis) for axis in value.axes)

    def cut(self, array: Any, value: Value) -> Any:
        """The surviving part of an array of full size."""
        if self.dead is None:
            return array
        for d, axis in enumerate(value.axes):
            alive = self.alive(axis)
            if not alive.all():
                array = jnp.take(array, np.flatnonzero(alive), axis=d)
        return array

    def __call__(self, analysis: Analysis, args: Sequence[Any]) -> list[Any]:
        """Results of the analysed jaxpr on `args` (already cut)."""
        env: dict[Any, Any] = {}
        for var, const in zip(analysis.jaxpr.constvars, analysis.consts, strict=True):
            env[var] = self.cut(const, analysis.values[var])
        env.update(zip(analysis.jaxpr.invars, args, strict=True))
        for index, eqn in enumerate(analysis.jaxpr.eqns):
            operands = [a.val if isinstance(a, jex.Literal) else env[a] for a in eqn.invars]
            with _context(eqn):
                results = self._equation(analysis, index, eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [a.val if isinstance(a, jex.Literal) else env[a] for a in analysis.jaxpr.outvars]

    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list[Any]) -> Sequence[Any]:
        name = eqn.primitive.name
        if index in analysis.inner:
            return _BODIES[name](self, analysis, index, eqn, args)
        values = [analysis.value(atom) for atom in eqn.invars]
        args = self.hook.operands(eqn, values, args)

        def ordinary(*operands: Any) -> Sequence[Any]:
            if self.dead is None or name not in _RESIZE:
                return bind(eqn, operands)
            results = [analysis.values[var] for var in eqn.outvars]
            return _RESIZE[name](self, eqn, values, results, list(operands))

        return self.hook.bind(eqn, values, args, ordinary)


def bind(eqn: Any, args: Sequence[Any], **changed: Any) -> Sequence[Any]:
    """The results of an equation, always as a sequence, with some parameters changed."""
    params = {**eqn.primitive.get_bind_params(eqn.params), **changed}
    results = eqn.primitive.bind(*args, **params)
    return results if eqn.primitive.multiple_results else [results]


def _context(eqn: Any) -> Any:
    context = getattr(eqn, "ctx", None)
    return contextlib.nullcontext() if context is None else context.manager


# -- shapes among the parameters ------------------------------------------------------------------

_RESIZE: dict[str, Callable] = {}


def _resize(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        _RESIZE.update(dict.fromkeys(names, function))
        return function

    return register


@_resize("broadcast_in_dim")
def _broadcast_in_dim(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    return [lax.broadcast_in_dim(args[0], run.shape(outs[0]), eqn.params["broadcast_dimensions"])]


@_resize("reshape")
def _reshape(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    return [lax.reshape(args[0], run.shape(outs[0]), eqn.params["dimensions"])]


@_resize("iota", "random_bits")
def _at_full_size(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    # The values belong to positions: made for all of them, then taken, so that the units that
    # survive see what they would have seen.
    return [run.cut(bind(eqn, args)[0], outs[0])]


@_resize("slice")
def _slice(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    p, result = eqn.params, args[0]
    strides = p["strides"] or (1,) * result.ndim
    for d, axis in enumerate(ins[0].axes):
        alive = run.alive(axis)
        window = np.arange(p["start_indices"][d], p["limit_indices"][d], strides[d])
        if window.size == alive.size:
            continue
        rank = np.cumsum(alive) - 1
        chosen = rank[window[alive[window]]]
        if chosen.size and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + chosen.size)):
            result = lax.slice_in_dim(result, int(chosen[0]), int(chosen[0]) + chosen.size, axis=d)
        else:
            result = jnp.take(result, chosen, axis=d)
    return [result]


@_resize("split")
def _split(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    d = eqn.params["axis"]
    alive = run.alive(ins[0].axes[d])
    bounds = np.cumsum((0, *eqn.params["sizes"]))
    sizes = [int(alive[a:b].sum()) for a, b in zip(bounds, bounds[1:], strict=False)]
    return bind(eqn, args, sizes=tuple(sizes))


@_resize("pad")
def _pad(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    config = []
    for axis, (low, high, interior) in zip(outs[0].axes, eqn.params["padding_config"], strict=True):
        if low > 0 or high > 0:
            alive = run.alive(axis)
            if not alive.all():
                low, high = int(alive[:low].sum()), int(alive[alive.size - high :].sum())
        config.append((low, high, interior))
    return bind(eqn, args, padding_config=tuple(config))


@_resize("conv_general_dilated")
def _conv(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    groups = eqn.params["feature_group_count"]
    if groups == 1:
        return bind(eqn, args)
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = numbers.lhs_spec[1], numbers.rhs_spec[1]
    return bind(eqn, args, feature_group_count=args[0].shape[lhs] // args[1].shape[rhs])


@_resize("gather")
def _gather(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    sizes = list(eqn.params["slice_sizes"])
    full = [axis_size(axis) for axis in ins[0].axes]
    static = static_gather_axis(eqn, ins[1])
    if static is not None and run.is_cut(ins[0].axes[static]):
        alive = run.alive(ins[0].axes[static])
        wanted = np.clip(ins[1].const[:, 0], 0, alive.size - 1)
        places = (np.cumsum(alive) - 1)[wanted[alive[wanted]]]
        args = [args[0], jnp.asarray(places, args[1].dtype)[:, None]]
    for d, size in enumerate(sizes):
        if size == full[d] and d != static:
            sizes[d] = args[0].shape[d]
    return bind(eqn, args, slice_sizes=tuple(sizes))


@_resize("dynamic_slice")
def _dynamic_slice(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    return bind(eqn, args, slice_sizes=run.shape(outs[0]))


# -- jaxprs inside equations ----------------------------------------------------------------------

_BODIES: dict[str, Callable] = {}


def _body(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        _BODIES.update(dict.fromkeys(names, function))
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
    """Results of a function with its own derivative if the transform leaves it as it is."""
    inner = analysis.inner[index][0]
    if type(run.hook) is not Hook and _reads_units(inner):
        return run(inner, args)  # hooks act inside; the body is differentiated as written
    if run.dead is None or not _any_cut(run, inner):
        return list(bind(eqn, args))
    return None


def _reads_units(analysis: Analysis) -> bool:
    names = {eqn.primitive.name for eqn in analysis.jaxpr.eqns}
    return bool(names & {"dot_general", "conv_general_dilated"}) or any(
        _reads_units(body) for bodies in analysis.inner.values() for body in bodies
    )


def _any_cut(run: Run, analysis: Analysis) -> bool:
    seen = [v for v in analysis.values.values() if any(run.is_cut(a) for a in v.axes)]
    return bool(seen) or any(
        _any_cut(run, body) for bodies in analysis.inner.values() for body in bodies
    )


@_body("custom_jvp_call")
def _custom_jvp(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    done = _custom(run, analysis, index, eqn, args)
    if done is not None:
        return done
    inner = analysis.inner[index][0]
    values = [analysis.value(atom) for atom in eqn.invars]
    consts = eqn.params["num_consts"]
    params = eqn.primitive.get_bind_params(eqn.params)
    fun, jvp = params.pop("subfuns")

    def resized_jvp(*both: Any) -> list:
        half = len(both) // 2
        primals, tangents = both[consts:half], both[half + consts :]
        traced, traced_consts, zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(
            *[False] * len(tangents)
        )
        twice = [*values[consts:], *values[consts:]]
        rule = analyse(run.walk, traced, traced_consts, [Value(v.axes) for v in twice])
        out = run(rule, [*primals, *tangents])
        count = len(zeros)
        known = iter(out[count:])
        return [
            *out[:count],
            *(jnp.zeros_like(p) if z else next(known) for p, z in zip(out, zeros, strict=False)),
        ]

    if eqn.params["symbolic_zeros"]:
        return run(inner, args)
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
    values = [analysis.value(atom) for atom in eqn.invars]
    consts = eqn.params["num_consts"]
    params = eqn.primitive.get_bind_params(eqn.params)
    fun, fwd, bwd = params.pop("subfuns")

    def resized_fwd(*pairs: Any) -> list:
        primals, nonzero = pairs[::2][consts:], pairs[1::2][consts:]
        traced, traced_consts = eqn.params["fwd_jaxpr_thunk"].call_wrapped(*nonzero)
        rule = analyse(run.walk, traced, traced_consts, [Value(v.axes) for v in values[consts:]])
        return run(rule, primals)

    subfuns = (
        lu.wrap_init(lambda *operands: run(inner, operands), debug_info=fun.debug_info),
        lu.wrap_init(resized_fwd, debug_info=fwd.debug_info),
        bwd,
    )
    return list(eqn.primitive.bind(*args, **params, subfuns=subfuns))


@_body("scan")
def _scan(run: Run, analysis: Analysis, index: int, eqn: Any, args: list) -> list:
    p, inner = eqn.params, analysis.inner[index][0]
    consts, carry = p["num_consts"], p["num_carry"]

    def step(state: tuple, xs: tuple) -> tuple:
        out = run(inner, [*args[:consts], *state, *xs])
        return tuple(out[:carry]), tuple(out[carry:])

    state, stacked = lax.scan(
        step,
        tuple(args[consts : consts + carry]),
        tuple(args[consts + carry :]),
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
