"""Rewritings of a graph that are exact in real numbers: constants go into the layers beside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dynhp_jax.export.graph import Graph, Op

_LAYERS = ("dense", "conv")
_ENDS = (*_LAYERS, "binary", "clip")


def simplified(graph: Graph) -> Graph:
    """The same function in fewer operations: scales and biases in kernels, clips in what they clip.

    Multiplications by constants before and after a layer, additions after it, means, and batch
    normalisations, which are all of these, are then part of the layer.
    """
    _drop_unread(graph)
    _gelus(graph)
    _repeated(graph)
    _scales(graph)
    _repeated(graph)
    _drop_unread(graph)
    return graph


def _repeated(graph: Graph) -> None:
    while any(_once(graph, rule) for rule in (_after, _before, _clip, _mean, _reshapes)):
        pass


def _scales(graph: Graph) -> None:
    """A multiplication of an image's channels that is left is a depthwise convolution of 1x1.

    It takes the additions and the clip beside it: a batch normalisation before a ReLU is one.
    """
    for op in graph.ops:
        found = _constant(op)
        if found is None or len(op.shape) != 4 or graph.shape(op.data[0]) != op.shape:
            continue
        (place, value), how, channels = found, op.attrs["how"], op.shape[-1]
        if how not in ("mul", "div") or (how == "div" and place == 0):
            continue
        if value.size not in (1, channels) or (value.size > 1 and value.shape[-1] != channels):
            continue
        factor = np.broadcast_to(value.reshape(-1).astype(np.float64), channels)
        kernel = (factor if how == "mul" else 1 / factor).astype(np.float32)
        op.kind = "conv"
        op.inputs = [op.data[0], kernel.reshape(1, 1, 1, -1), np.zeros(channels, np.float32)]
        op.attrs = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1),
                    "groups": channels}  # fmt: skip


def _once(graph: Graph, rule: Callable) -> bool:
    """Applies a rule wherever it fits; a rule replaces its operation by the one before it."""
    changed, readers, made = False, graph.readers(), graph.made_by
    for op in list(graph.ops):
        before = made.get(op.data[0]) if len(op.data) == 1 else None
        alone = before is not None and len(readers[before.name]) == 1
        if before is not None and rule(op, before, alone):
            _replace(graph, op, before)
            changed, readers, made = True, graph.readers(), graph.made_by
    return changed


def _replace(graph: Graph, op: Op, before: Op) -> None:
    """Whoever read `op` reads `before`; both have the same shape."""
    graph.ops.remove(op)
    for other in graph.ops:
        other.inputs = [
            before.name if isinstance(x, str) and x == op.name else x for x in other.inputs
        ]
    graph.outputs = [before.name if name == op.name else name for name in graph.outputs]


def _constant(op: Op) -> tuple[int, np.ndarray] | None:
    """(place, value) of the one constant of a binary operation."""
    found = [(k, x) for k, x in enumerate(op.inputs) if isinstance(x, np.ndarray)]
    return found[0] if op.kind == "binary" and len(found) == 1 and "clip" not in op.attrs else None


def _per_unit(value: np.ndarray, layer: Op) -> np.ndarray | None:
    """f64[n]: a constant as one number for each unit that a layer makes, if it is that."""
    n, inner, size = layer.inputs[1].shape[-1], 0, 1
    while size < n:
        inner += 1
        size *= layer.shape[-inner]
    if value.ndim > len(layer.shape) or math.prod(value.shape[: max(0, value.ndim - inner)]) != 1:
        return None
    tail = value.reshape(value.shape[value.ndim - inner :]) if value.ndim >= inner else value
    return np.broadcast_to(tail, layer.shape[len(layer.shape) - inner :]).reshape(n).astype(float)


def _after(op: Op, before: Op, alone: bool) -> bool:
    """layer * c + d, and a reshape between them that leaves the units alone."""
    found = _constant(op)
    if found is None or not alone or before.kind not in _LAYERS or op.shape != before.shape:
        return False
    place, how = found[0], op.attrs["how"]
    value = _per_unit(found[1], before)
    if value is None or before.attrs.get("clip") or how not in ("add", "sub", "mul", "div"):
        return False
    x, w, b = before.inputs
    w, b = w.astype(np.float64), b.astype(np.float64)
    if how == "div" and place == 0:
        return False
    if how in ("mul", "div"):
        factor = value if how == "mul" else 1 / value
        w, b = w * factor, b * factor
    elif how == "add" or place == 1:
        b = b + (value if how == "add" else -value)
    else:
        w, b = -w, value - b
    before.inputs = [x, w.astype(np.float32), b.astype(np.float32)]
    return True


def _before(op: Op, before: Op, alone: bool) -> bool:
    """layer(x * c + d): factors go into the rows of the kernel, sums into the bias; `op` is it.

    Sums not where the layer pads its operand: what it pads with stays 0.
    """
    found = _constant(before)
    if op.kind not in _LAYERS or found is None or not alone or len(before.data) != 1:
        return False
    how, (place, value) = before.attrs["how"], found
    w, b = (x.astype(np.float64) for x in op.inputs[1:])
    channels = before.shape[-1]
    if op.kind == "dense" and w.shape[0] != channels:
        return False
    if value.size not in (1, channels) or (value.size > 1 and value.shape[-1] != channels):
        return False
    value = np.broadcast_to(value.reshape(-1).astype(np.float64), channels)
    groups, n = op.attrs.get("groups", 1), w.shape[-1]
    by_row = np.repeat(value.reshape(groups, -1).T, n // groups, axis=1)  # of w's last two axes
    if how in ("mul", "div") and not (how == "div" and place == 0):
        w = w * (by_row if how == "mul" else 1 / by_row)
    elif how in ("add", "sub") and not np.any(op.attrs.get("padding", 0)):
        sums = (w * by_row).sum(tuple(range(w.ndim - 1)))
        b = b + (-sums if how == "sub" and place == 1 else sums)
        w = -w if how == "sub" and place == 0 else w
    else:
        return False
    # The layer takes the place of what it read.
    before.kind, before.attrs = op.kind, op.attrs
    before.inputs = [before.data[0], w.astype(np.float32), b.astype(np.float32)]
    before.shape, before.dtype, before.batch = op.shape, op.dtype, op.batch
    return True


def _clip(op: Op, before: Op, alone: bool) -> bool:
    """max and min with one number, in what they clip."""
    if op.kind == "clip":
        low, high = op.attrs["clip"]
    else:
        found = _constant(op)
        if found is None or op.attrs["how"] not in ("max", "min") or found[1].size != 1:
            return False
        bound = float(found[1].reshape(()))
        low, high = (bound, math.inf) if op.attrs["how"] == "max" else (-math.inf, bound)
    if math.isinf(low) and math.isinf(high):
        return op.shape == before.shape  # softmax: no maximum is below minus infinity
    if not alone or before.kind not in _ENDS or op.shape != before.shape:
        if op.kind == "binary":
            op.kind, op.inputs, op.attrs = "clip", list(op.data), {"clip": (low, high)}
        return False
    first, last = before.attrs.get("clip") or (-math.inf, math.inf)
    before.attrs["clip"] = (min(max(first, low), high), max(min(last, high), low))
    return True


def _mean(op: Op, before: Op, alone: bool) -> bool:
    """A sum that is multiplied by a number."""
    found = _constant(op)
    if found is None or not alone or before.kind not in ("reduce", "pool"):
        return False
    place, value = found
    how = op.attrs["how"]
    if before.attrs["how"] != "sum" or value.size != 1 or op.shape != before.shape:
        return False
    if how == "mul" or (how == "div" and place == 1):
        number = float(value.reshape(()))
        before.attrs["scale"] *= number if how == "mul" else 1 / number
        return True
    return False


def _reshapes(op: Op, before: Op, alone: bool) -> bool:
    """A reshape of a reshape is one; one to the same shape is none."""
    if op.kind != "reshape":
        return False
    if op.shape == before.shape:
        return True
    if before.kind == "reshape" and alone:
        before.shape, before.batch = op.shape, op.batch
        return True
    return False


def _gelus(graph: Graph) -> None:
    """x / 2 * erfc(-x / sqrt(2)), in whichever order, as one operation."""
    made = graph.made_by

    def scaled(name: str, number: float) -> str | None:
        """What a value is a multiple of, if it is that times the number."""
        op = made.get(name)
        found = op and _constant(op)
        if not found or op.attrs["how"] != "mul" or found[1].size != 1:
            return None
        return (
            op.data[0] if math.isclose(float(found[1].reshape(())), number, rel_tol=1e-6) else None
        )

    def argument(name: str) -> str | None:
        """x, of erfc(-x / sqrt(2))."""
        op = made.get(name)
        if op is None or (op.kind, op.attrs.get("how")) != ("unary", "erfc"):
            return None
        if (x := scaled(op.data[0], -math.sqrt(0.5))) is not None:
            return x
        inner = made.get(scaled(op.data[0], math.sqrt(0.5)) or "")
        return inner.data[0] if inner is not None and inner.attrs.get("how") == "neg" else None

    for op in graph.ops:
        if op.kind != "binary" or op.attrs["how"] != "mul" or len(op.data) != 2:
            continue
        for half, other in (op.data, op.data[::-1]):
            x = argument(other)
            if x is not None and scaled(half, 0.5) == x:
                op.kind, op.inputs, op.attrs = "unary", [x], {"how": "gelu"}
                break
    _drop_unread(graph)


def _drop_unread(graph: Graph) -> None:
    needed: set[Any] = set(graph.outputs)
    for op in reversed(graph.ops):
        if op.name in needed:
            needed.update(op.data)
    graph.ops = [op for op in graph.ops if op.name in needed]
