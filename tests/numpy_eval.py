"""Evaluates a jaxpr in NumPy: thousands of small programs, none of them compiled.

What is not here (pooling windows, sorts) is run by JAX one primitive at a time.
"""

import jax
import numpy as np
from jax.extend import core as jex
from numpy_arrays import ARRAYS
from scipy import special

ELEMENTWISE = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "cos": np.cos,
    "eq": np.equal,
    "erf": special.erf,
    "exp": np.exp,
    "expm1": np.expm1,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": special.expit,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.bitwise_or,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tanh": np.tanh,
}
REDUCE = {
    "reduce_and": np.all,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_or": np.any,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
}
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def run(closed, args):
    """Results (NumPy arrays) of a closed jaxpr."""
    jaxpr = getattr(closed, "jaxpr", closed)
    env = dict(zip(jaxpr.constvars, map(_array, getattr(closed, "consts", ())), strict=True))
    env.update(zip(jaxpr.invars, map(_array, args), strict=True))

    def read(atom):
        return _array(atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        results = equation(eqn, [read(atom) for atom in eqn.invars])
        for var, result in zip(eqn.outvars, results, strict=True):
            env[var] = _array(result, var.aval.dtype)
    return [read(atom) for atom in jaxpr.outvars]


def _array(value, dtype=None):
    """In NumPy; a typed PRNG key, which NumPy cannot hold, stays as it is."""
    is_key = jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key)
    return value if is_key else np.asarray(value, dtype)


def equation(eqn, args):
    name, p = eqn.primitive.name, eqn.params
    if name in ELEMENTWISE and not (name == "not" and args[0].dtype != bool):
        return [ELEMENTWISE[name](*args)]
    if name in REDUCE:
        return [REDUCE[name](args[0], axis=tuple(p["axes"]))]
    if name in STRUCTURE:
        return [STRUCTURE[name](p, *args)]
    if name in CONTROL:
        return CONTROL[name](p, args)
    if name in ARRAYS:
        result = ARRAYS[name](p, *args)
        if result is not None:
            return [result]
    if name.startswith("empty"):
        return [np.zeros(var.aval.shape, var.aval.dtype) for var in eqn.outvars]
    if name == "div" and np.issubdtype(args[0].dtype, np.floating):
        return [args[0] / args[1]]
    body = next((p[key] for key in BODIES if key in p), None)
    if body is not None:
        return run(body, args)
    out = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(p))
    return out if eqn.primitive.multiple_results else [out]


def _broadcast(p, x):
    shape = [1] * len(p["shape"])
    for d, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        shape[d] = size
    return np.broadcast_to(x.reshape(shape), p["shape"])


def _iota(p):
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    return np.broadcast_to(np.arange(p["shape"][p["dimension"]]).reshape(shape), p["shape"])


def _slice(p, x):
    steps = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], steps))]


def _dot_general(p, x, y):
    (left, right), (left_batch, right_batch) = p["dimension_numbers"]
    names = iter(range(x.ndim + y.ndim))
    of_x = [next(names) for _ in range(x.ndim)]
    of_y = [None] * y.ndim
    for a, b in zip((*left_batch, *left), (*right_batch, *right), strict=True):
        of_y[b] = of_x[a]
    of_y = [next(names) if n is None else n for n in of_y]
    out = [of_x[d] for d in left_batch]
    out += [n for d, n in enumerate(of_x) if d not in (*left_batch, *left)]
    out += [n for d, n in enumerate(of_y) if d not in (*right_batch, *right)]
    return np.einsum(x, of_x, y, of_y, out)


STRUCTURE = {
    "broadcast_in_dim": _broadcast,
    "clamp": lambda p, low, x, high: np.clip(x, low, high),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "convert_element_type": lambda p, x: x.astype(p["new_dtype"]),
    "copy": lambda p, x: x,
    "dot_general": _dot_general,
    "integer_pow": lambda p, x: x ** p["y"],
    "iota": _iota,
    "reshape": lambda p, x: x.transpose(p["dimensions"] or range(x.ndim)).reshape(p["new_sizes"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "select_n": lambda p, which, *xs: np.choose(which, xs),
    "slice": _slice,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "tile": lambda p, x: np.tile(x, p["reps"]),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}


def _scan(p, args):
    consts, carry = p["num_consts"], p["num_consts"] + p["num_carry"]
    state, stacked = args[consts:carry], []
    order = range(p["length"])
    for k in reversed(order) if p["reverse"] else order:
        out = run(p["jaxpr"], [*args[:consts], *state, *(x[k] for x in args[carry:])])
        state, ys = out[: p["num_carry"]], out[p["num_carry"] :]
        stacked.append(ys)
    if p["reverse"]:
        stacked.reverse()
    return [*state, *(np.stack(ys) for ys in zip(*stacked, strict=True))]


def _while(p, args):
    nc, nb = p["cond_nconsts"], p["body_nconsts"]
    state = args[nc + nb :]
    while run(p["cond_jaxpr"], [*args[:nc], *state])[0]:
        state = run(p["body_jaxpr"], [*args[nc : nc + nb], *state])
    return state


CONTROL = {
    "cond": lambda p, args: run(p["branches"][int(args[0])], args[1:]),
    "scan": _scan,
    "split": lambda p, args: np.split(args[0], np.cumsum(p["sizes"])[:-1], p["axis"]),
    "while": _while,
}


def compiled(function, *examples):
    """`function` (pytrees in, pytrees out) as a NumPy function for arguments of these shapes."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)
    tree = jax.tree.structure(shapes)

    def call(*args):
        with np.errstate(all="ignore"):  # a branch that a `where` leaves out may divide by zero
            return jax.tree.unflatten(tree, run(closed, jax.tree.leaves(args)))

    return call
