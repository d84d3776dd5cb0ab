"""A network as a short list of operations on one example: what the writers of files read.

Values are named; constants stand among the inputs of an operation as arrays. Shapes have the batch
axis, with one example. Elementwise operations broadcast as NumPy does.

| kind | inputs | attributes |
| --- | --- | --- |
| `dense` | x [..., k], kernel [k, n], bias [n] | `clip` |
| `conv` | x NHWC, kernel HWIO, bias | `strides`, `padding`, `dilation`, `groups`, `clip` |
| `pool` | x NHWC | `how` ('max', 'sum'), `window`, `strides`, `padding`, `scale` |
| `reduce` | x | `how` ('max', 'sum', 'min'), `axes`, `scale` |
| `binary` | x, y | `how` ('add', 'sub', 'mul', 'div', 'max', 'min', 'pow'), `clip` |
| `unary` | x | `how` ('exp', 'tanh', ...; see `UNARY`) |
| `clip` | x | `clip` |
| `matmul` | x [..., m, k], y [..., k, n] | |
| `select` | mask, x where it is true, y elsewhere | |
| `lookup` | table [words, n], integers | |
| `take` | x | `axis`, `positions` |
| `reshape`, `expand` | x | |
| `transpose` | x | `axes` |

The last axes of a result of `dense` may stand for the one axis n. `clip` is (low, high) or None;
`scale` is what a sum is multiplied by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

UNARY: dict[str, Callable] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "neg": np.negative,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "erf": lambda x: np.vectorize(math.erf, otypes=[np.float64])(x),
    "erfc": lambda x: np.vectorize(math.erfc, otypes=[np.float64])(x),
    "gelu": lambda x: 0.5 * x * UNARY["erfc"](-x * math.sqrt(0.5)),
}
BINARY: dict[str, Callable] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
}


@dataclasses.dataclass(eq=False)
class Op:
    """One operation; its result has its name.

    Attributes:
      kind, inputs, attrs: see the module.
      name, shape, dtype: of the result.
      batch: the axis of the result that has the examples.
    """

    kind: str
    inputs: list[Any]
    name: str
    shape: tuple[int, ...]
    dtype: Any
    batch: int | None = 0
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def data(self) -> list[str]:
        """The inputs that are computed."""
        return [each for each in self.inputs if isinstance(each, str)]

    def rows(self) -> tuple[int, int, int]:
        """(rows, k, n) of a dense layer."""
        k, n = self.inputs[1].shape
        return math.prod(self.shape) // n, k, n


@dataclasses.dataclass(eq=False)
class Graph:
    """Operations in an order in which they can run.

    Attributes:
      inputs: {name: (shape with one example, dtype)}.
      ops: all of them.
      outputs: names.
    """

    inputs: dict[str, tuple[tuple[int, ...], Any]]
    ops: list[Op]
    outputs: list[str]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a value, with one example."""
        return self.inputs[name][0] if name in self.inputs else self.made_by[name].shape

    @property
    def made_by(self) -> dict[str, Op]:
        """The operation of every result."""
        return {op.name: op for op in self.ops}

    def readers(self) -> dict[str, list[Op]]:
        """The operations that read each value; of an output there is one more, None."""
        found: dict[str, list[Any]] = {name: [] for name in [*self.inputs, *self.made_by]}
        for op in self.ops:
            for name in op.data:
                found[name].append(op)
        for name in self.outputs:
            found[name].append(None)
        return found

    def kinds(self) -> list[str]:
        """What there is: 'dense', 'binary add', ..., sorted."""
        return sorted(
            {" ".join([op.kind, *filter(None, [op.attrs.get("how")])]) for op in self.ops}
        )

    @property
    def constants(self) -> int:
        """How many numbers the operations hold."""
        return sum(x.size for op in self.ops for x in op.inputs if isinstance(x, np.ndarray))


def clipped(x: np.ndarray, clip: tuple[float, float] | None) -> np.ndarray:
    """x between the two numbers."""
    return x if clip is None else np.clip(x, *clip)


def run(graph: Graph, *inputs: np.ndarray, every: bool = False) -> Any:
    """What the graph computes, by NumPy in float64: what writers are tested and calibrated by.

    Args:
      inputs: of some examples, in the order of the graph's.
      every: whether to return {name: value} of all values; else the outputs, one or a list.
    """
    values: dict[str, np.ndarray] = {}
    for (name, (_, dtype)), x in zip(graph.inputs.items(), inputs, strict=True):
        values[name] = np.asarray(x, np.int64 if np.issubdtype(dtype, np.integer) else np.float64)
    count = len(inputs[0])
    for op in graph.ops:
        given = [values[x] if isinstance(x, str) else x for x in op.inputs]
        shape = tuple(count if d == op.batch else size for d, size in enumerate(op.shape))
        values[op.name] = _RUN[op.kind](op, shape, *given)
    if every:
        return values
    found = [values[name] for name in graph.outputs]
    return found[0] if len(found) == 1 else found


def _dense(op: Op, shape: tuple, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = x.reshape(-1, w.shape[0]) @ w.astype(np.float64) + b
    return clipped(y.reshape(shape), op.attrs.get("clip"))


def _windows(op: Op, x: np.ndarray, window: tuple, fill: float) -> np.ndarray:
    """[n, h, w, window h, window w, c]."""
    x = np.pad(x, ((0, 0), *op.attrs["padding"], (0, 0)), constant_values=fill)
    dilation = op.attrs.get("dilation", (1, 1))
    spread = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
    found = np.lib.stride_tricks.sliding_window_view(x, spread, axis=(1, 2))
    (sh, sw), (dh, dw) = op.attrs["strides"], dilation
    return np.moveaxis(found[:, ::sh, ::sw, :, ::dh, ::dw], 3, -1)


def _conv(op: Op, shape: tuple, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    groups, n = op.attrs["groups"], w.shape[-1]
    found = _windows(op, x, w.shape[:2], 0.0)
    found = found.reshape(*found.shape[:-1], groups, -1)
    kernel = w.astype(np.float64).reshape(*w.shape[:3], groups, n // groups)
    y = np.einsum("bhwijgc,ijcgn->bhwgn", found, kernel, optimize=True)
    return clipped(y.reshape(shape) + b, op.attrs.get("clip"))


def _pool(op: Op, shape: tuple, x: np.ndarray) -> np.ndarray:
    largest = op.attrs["how"] == "max"
    found = _windows(op, x, op.attrs["window"], -np.inf if largest else 0.0)
    return found.max((3, 4)) if largest else found.sum((3, 4)) * op.attrs["scale"]


def _reduce(op: Op, shape: tuple, x: np.ndarray) -> np.ndarray:
    reduce = {"max": np.max, "min": np.min, "sum": np.sum}[op.attrs["how"]]
    return reduce(x, axis=op.attrs["axes"]) * op.attrs["scale"]


_RUN: dict[str, Callable] = {
    "dense": _dense,
    "conv": _conv,
    "pool": _pool,
    "reduce": _reduce,
    "binary": lambda op, s, x, y: clipped(BINARY[op.attrs["how"]](x, y), op.attrs.get("clip")),
    "unary": lambda op, s, x: UNARY[op.attrs["how"]](x),
    "clip": lambda op, s, x: clipped(x, op.attrs["clip"]),
    "matmul": lambda op, s, x, y: np.matmul(x, y),
    "select": lambda op, s, mask, x, y: np.where(mask, x, y),
    "lookup": lambda op, s, table, at: table.astype(np.float64)[at],
    "take": lambda op, s, x: np.take(x, op.attrs["positions"], axis=op.attrs["axis"]),
    "reshape": lambda op, s, x: x.reshape(s),
    "expand": lambda op, s, x: np.broadcast_to(x, s),
    "transpose": lambda op, s, x: np.transpose(x, op.attrs["axes"]),
}
