"""From the jaxpr of a finished network to a `Graph`: constants are computed, the rest is named.

A primitive that has no entry in READ, or one used in a way that no operation has, is named in an
error. The function is traced for one example and for two, which tells the axis of the examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.export.graph import BINARY, UNARY, Graph, Op
from dynhp_jax.export.simplify import simplified
from dynhp_jax.jaxprs.constants import CALLS, called_jaxpr, open_jaxpr
from dynhp_jax.jaxprs.interpreter import bind

_BY_NUMPY = {**BINARY, **{how: UNARY[how] for how in ("exp", "sqrt", "rsqrt", "square", "neg")}}
_SAME = ("copy", "stop_gradient", "copy_p", "optimization_barrier", "reduce_precision")


class Missing(UserError):
    """The network computes something that no operation of a graph, or of a format, stands for."""


def graph_of(apply: Callable, example: Any) -> Graph:
    """The graph of a function of whole examples.

    Args:
      apply: `apply(inputs) -> outputs`, with its variables inside.
      example: shapes and types of one example, a pytree without the batch axis.

    Raises:
      Missing: for a primitive, or a use of one, that has no operation.
    """
    one, two = (_trace(apply, example, count) for count in (1, 2))
    reader = _Reader()
    leaves = jax.tree_util.tree_leaves_with_path(example)
    inputs = {}
    for path, leaf in leaves:
        name = "_".join(filter(None, ["input", path_name(path).replace("/", "_")]))
        inputs[name] = ((1, *leaf.shape), np.dtype(leaf.dtype))
    outputs = reader.jaxpr(one.jaxpr, two.jaxpr, one.consts, list(inputs))
    if not all(isinstance(each, str) for each in outputs):
        raise Missing("an output of the network is the same for all examples; nothing is computed")
    named = [
        reader.full(each, atom.aval.shape)
        for each, atom in zip(outputs, one.jaxpr.outvars, strict=True)
    ]
    return simplified(Graph(inputs, reader.ops, named))


def _trace(apply: Callable, example: Any, count: int) -> Any:
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), example)
    return jax.make_jaxpr(apply)(batch)


class _Reader:
    """Makes operations of equations; what is computed is a name, what is constant an array.

    A broadcast is left to whoever reads the value, so that a value may have 1 where the variable of
    the jaxpr has a larger size.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, Any] = {}
        self.batch: int | None = 0

    def jaxpr(self, one: Any, two: Any, consts: Any, args: list[Any]) -> list[Any]:
        """The results of a jaxpr; `two` is the same for two examples."""
        env: dict[Any, Any] = dict(zip(one.constvars, map(np.asarray, consts), strict=True))
        env.update(zip(one.invars, args, strict=True))
        for var, arg in zip(one.invars, args, strict=True):
            if isinstance(arg, str):
                self.shapes.setdefault(arg, tuple(var.aval.shape))
                self.dtypes.setdefault(arg, var.aval.dtype)
        if [e.primitive for e in one.eqns] != [e.primitive for e in two.eqns]:
            raise Missing("the network computes otherwise for two examples than for one")

        def read(atom: Any) -> Any:
            return np.asarray(atom.val) if isinstance(atom, jex.Literal) else env[atom]

        for eqn, other in zip(one.eqns, two.eqns, strict=True):
            results = self.equation(eqn, other, list(map(read, eqn.invars)))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in one.outvars]

    def equation(self, eqn: Any, other: Any, args: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        constant = not any(isinstance(arg, str) for arg in args)
        if name in CALLS and not (constant and name != "jit"):
            inner, consts = open_jaxpr(called_jaxpr(eqn.params))
            return self.jaxpr(inner, open_jaxpr(called_jaxpr(other.params))[0], consts, args)
        if constant:
            if name == "broadcast_in_dim":  # left to whoever reads it
                return [_spread(args[0], eqn.params)]
            if name in _BY_NUMPY and np.issubdtype(eqn.outvars[0].aval.dtype, np.inexact):
                # jax would compile a program for every shape.
                return [_BY_NUMPY[name](*args).astype(eqn.outvars[0].aval.dtype)]
            shapes = [atom.aval.shape for atom in eqn.invars]
            args = [jnp.asarray(np.broadcast_to(x, s)) for x, s in zip(args, shapes, strict=True)]
            return [np.asarray(x) for x in bind(eqn, args)]
        self.batch = _batch_axis(eqn.outvars[0].aval.shape, other.outvars[0].aval.shape)
        if name in _SAME:
            return args
        if name not in READ:
            raise Missing(f"the network has the primitive {name!r}, which no exported graph has")
        return [READ[name](self, eqn, *args)]

    def add(self, kind: str, inputs: list[Any], shape: Any, dtype: Any, **attrs: Any) -> str:
        """A new operation; its name. Without a dtype it has that of its first input."""
        name = f"v{len(self.ops)}"
        self.shapes[name] = tuple(shape)
        dtype = np.dtype(self.dtypes[inputs[0]] if dtype is None else dtype)
        self.dtypes[name] = dtype
        self.ops.append(Op(kind, inputs, name, tuple(shape), dtype, self.batch, attrs))
        return name

    def shape(self, x: Any) -> tuple[int, ...]:
        return self.shapes[x] if isinstance(x, str) else x.shape

    def full(self, x: Any, shape: Any) -> Any:
        """A value at the size that the jaxpr says."""
        if self.shape(x) == tuple(shape):
            return x
        if not isinstance(x, str):
            return np.broadcast_to(x, shape)
        return self.add("expand", [x], shape, None)


def _batch_axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    differ = [d for d, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    if len(differ) > 1:
        raise Missing("the network multiplies examples with each other")
    return differ[0] if differ else None


def _spread(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for d, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[d] = size
    return x.reshape(shape)


def _binary(how: str) -> Callable:
    def read(r: _Reader, eqn: Any, x: Any, y: Any) -> str:
        shape = np.broadcast_shapes(r.shape(x), r.shape(y))
        return r.add("binary", [x, y], shape, eqn.outvars[0].aval.dtype, how=how)

    return read


def _unary(how: str) -> Callable:
    def read(r: _Reader, eqn: Any, x: Any) -> str:
        return r.add("unary", [x], r.shape(x), eqn.outvars[0].aval.dtype, how=how)

    return read


def _reduce(how: str) -> Callable:
    def read(r: _Reader, eqn: Any, x: Any) -> str:
        x = r.full(x, eqn.invars[0].aval.shape)
        out, axes = eqn.outvars[0].aval, tuple(eqn.params["axes"])
        return r.add("reduce", [x], out.shape, out.dtype, how=how, axes=axes, scale=1.0)

    return read


def _pool(how: str) -> Callable:
    def read(r: _Reader, eqn: Any, x: Any) -> str:
        p, out = eqn.params, eqn.outvars[0].aval
        window, strides, padding = (
            p[k] for k in ("window_dimensions", "window_strides", "padding")
        )
        plain = {1} >= {*p["base_dilation"], *p["window_dilation"], window[0], window[-1]}
        if len(window) != 4 or not plain or strides[0] != 1 or strides[-1] != 1:
            raise Missing("the network pools over other axes than height and width")
        x = r.full(x, eqn.invars[0].aval.shape)
        attrs = {"window": tuple(window[1:3]), "strides": tuple(strides[1:3])}
        padding = tuple(map(tuple, padding[1:3]))
        return r.add(
            "pool", [x], out.shape, out.dtype, how=how, padding=padding, scale=1.0, **attrs
        )

    return read


def _conv(r: _Reader, eqn: Any, x: Any, kernel: Any) -> str:
    p, out = eqn.params, eqn.outvars[0].aval
    if isinstance(kernel, str) or not isinstance(x, str):
        raise Missing("the network has a convolution whose kernel is computed from the inputs")
    numbers = p["dimension_numbers"]
    if (
        len(p["window_strides"]) != 2
        or set(p["lhs_dilation"]) != {1}
        or p["batch_group_count"] != 1
    ):
        raise Missing("the network has a convolution that is not of images, or is transposed")
    x = r.full(x, eqn.invars[0].aval.shape)
    kernel = np.broadcast_to(kernel, eqn.invars[1].aval.shape)
    n, c, h, w = numbers.lhs_spec
    o, i, kh, kw = numbers.rhs_spec
    x = _transposed(r, x, (n, h, w, c))
    kernel = kernel.transpose(kh, kw, i, o)
    no, co, ho, wo = numbers.out_spec
    shape = tuple(out.shape[d] for d in (no, ho, wo, co))
    after, r.batch = r.batch, 0
    made = r.add(
        "conv",
        [x, kernel, np.zeros(kernel.shape[-1], np.float32)],
        shape,
        out.dtype,
        strides=tuple(p["window_strides"]),
        padding=tuple(map(tuple, p["padding"])),
        dilation=tuple(p["rhs_dilation"]),
        groups=p["feature_group_count"],
    )
    r.batch = after
    return _transposed(r, made, tuple(int(d) for d in np.argsort((no, ho, wo, co))))


def _transposed(r: _Reader, x: Any, axes: tuple[int, ...]) -> Any:
    if axes == tuple(range(len(axes))):
        return x
    if not isinstance(x, str):
        return x.transpose(axes)
    shape = r.shape(x)
    return r.add("transpose", [x], [shape[d] for d in axes], None, axes=axes)


def _dot(r: _Reader, eqn: Any, x: Any, y: Any) -> str:
    (contract, batch), out = eqn.params["dimension_numbers"], eqn.outvars[0].aval
    x, y = (r.full(v, a.aval.shape) for v, a in zip((x, y), eqn.invars, strict=True))
    free = [
        [d for d in range(len(r.shape(v))) if d not in (*contract[k], *batch[k])]
        for k, v in enumerate((x, y))
    ]
    after = r.batch

    def sides(first: int) -> tuple[Any, Any]:
        """Both as [batch..., rows, k] and [batch..., k, columns], in the order (batch, free)."""
        a, b = (x, y) if first == 0 else (y, x)
        second = 1 - first
        a = _transposed(r, a, (*batch[first], *free[first], *contract[first]))
        b = _transposed(r, b, (*batch[second], *contract[second], *free[second]))
        return a, b

    constant = [k for k in (0, 1) if not isinstance((x, y)[k], str)]
    sizes = [[r.shape(v)[d] for d in f] for v, f in zip((x, y), free, strict=True)]
    k = math.prod(r.shape(x)[d] for d in contract[0])
    if constant and not batch[0]:
        kernel_side = constant[0]
        a, kernel = sides(1 - kernel_side)
        kernel = kernel.reshape(k, -1)
        bias = np.zeros(kernel.shape[1], np.float32)
        shape = (*sizes[1 - kernel_side], *sizes[kernel_side])
        r.batch = 0 if kernel_side == 0 else after
        made = r.add("dense", [a, kernel, bias], shape, out.dtype)
        r.batch = after
        if kernel_side == 1:
            return made
        count = len(sizes[1])
        return _transposed(r, made, (*range(count, len(shape)), *range(count)))
    a, b = sides(0)
    lead = [r.shape(x)[d] for d in batch[0]]
    rows, columns = math.prod(sizes[0]), math.prod(sizes[1])
    r.batch = 0
    a = _reshaped(r, a, (*lead, rows, k))
    b = _reshaped(r, b, (*lead, k, columns))
    made = r.add("matmul", [a, b], (*lead, rows, columns), out.dtype)
    r.batch = after
    return _reshaped(r, made, out.shape)


def _reshaped(r: _Reader, x: Any, shape: Any) -> Any:
    if r.shape(x) == tuple(shape):
        return x
    return r.add("reshape", [x], shape, None) if isinstance(x, str) else x.reshape(shape)


def _reshape(r: _Reader, eqn: Any, x: Any) -> Any:
    return _reshaped(r, r.full(x, eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape)


def _broadcast(r: _Reader, eqn: Any, x: Any) -> Any:
    shape = [1] * len(eqn.params["shape"])
    for d, size in zip(eqn.params["broadcast_dimensions"], r.shape(x), strict=True):
        shape[d] = size
    return _reshaped(r, x, tuple(shape))


def _moved(r: _Reader, eqn: Any, x: Any, *others: Any) -> Any:
    """What only picks positions of its first operand: which ones, by what it does to numbers."""
    if any(isinstance(each, str) for each in others):
        raise Missing(f"the network picks positions by {eqn.primitive.name!r} of computed indices")
    x = r.full(x, eqn.invars[0].aval.shape)
    places = np.arange(math.prod(r.shape(x)), dtype=np.int32).reshape(r.shape(x))
    found = np.asarray(bind(eqn, [jnp.asarray(places), *map(jnp.asarray, others)])[0])
    for axis in range(places.ndim):
        if found.ndim != places.ndim or found.shape[axis] == places.shape[axis]:
            continue
        first = [0] * places.ndim
        first[axis] = slice(None)
        step = math.prod(places.shape[axis + 1 :])
        at = (found[tuple(first)] // step) % places.shape[axis]
        places = places.take(at, axis)
        x = r.add("take", [x], places.shape, None, axis=axis, positions=at)
    if found.shape != places.shape or (found != places).any():
        raise Missing(f"the network uses {eqn.primitive.name!r} for more than positions of axes")
    return x


def _gather(r: _Reader, eqn: Any, x: Any, at: Any) -> Any:
    if isinstance(x, str) or not isinstance(at, str):
        return _moved(r, eqn, x, at)
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    rows = tuple(p["slice_sizes"]) == (1, x.shape[-1]) and numbers.start_index_map == (0,)
    if not rows or numbers.collapsed_slice_dims != (0,) or x.ndim != 2:
        raise Missing("the network looks up something else than rows of a table")
    out = eqn.outvars[0].aval
    at = _reshaped(r, at, out.shape[:-1])
    return r.add("lookup", [x, at], out.shape, out.dtype)


def _select(r: _Reader, eqn: Any, mask: Any, *cases: Any) -> Any:
    if len(cases) != 2:
        raise Missing("the network selects among more than two values")
    if np.issubdtype(eqn.outvars[0].aval.dtype, np.integer):
        made = {op.name: op for op in r.ops}
        test = made.get(mask)
        if test and test.attrs.get("how") == "lt" and test.inputs[0] is cases[0]:
            return cases[0]  # negative indices count from the end; words are never negative
    if isinstance(mask, str):
        raise Missing("the network selects by a mask that is computed")
    shape = np.broadcast_shapes(mask.shape, *map(r.shape, cases))
    return r.add("select", [mask, cases[1], cases[0]], shape, eqn.outvars[0].aval.dtype)


def _power(r: _Reader, eqn: Any, x: Any) -> Any:
    out, y = eqn.outvars[0].aval, eqn.params["y"]
    if y == 2:
        return r.add("unary", [x], r.shape(x), out.dtype, how="square")
    return r.add("binary", [x, np.float32(y)[None]], r.shape(x), out.dtype, how="pow")


def _convert(r: _Reader, eqn: Any, x: Any) -> Any:
    before, after = (atom.aval.dtype for atom in (eqn.invars[0], eqn.outvars[0]))
    same = [np.issubdtype(d, np.integer) for d in (before, after)]
    if same[0] != same[1]:
        raise Missing(f"the network converts {before} to {after}")
    return x


READ: dict[str, Callable] = {
    **{how: _unary(how) for how in UNARY if how != "gelu"},
    **{how: _binary(how) for how in (*BINARY, "lt")},
    "add_any": _binary("add"),
    **{f"reduce_{how}": _reduce(how) for how in ("sum", "max", "min")},
    "reduce_window_max": _pool("max"),
    "reduce_window_sum": _pool("sum"),
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": lambda r, eqn, x: _transposed(
        r, r.full(x, eqn.invars[0].aval.shape), tuple(eqn.params["permutation"])
    ),
    "slice": _moved,
    "gather": _gather,
    "select_n": _select,
    "integer_pow": _power,
    "convert_element_type": _convert,
}
