"""C99 in float32: one header, one source, static arrays, nothing allocated; from the graph.

Values lie in one static buffer, in which those that are not needed at the same time share places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.export.formats import c_files
from dynhp_jax.export.formats.c_files import Compiled, array, index, loops, number, strides
from dynhp_jax.export.formats.format import Format, Source, check_kinds
from dynhp_jax.export.graph import Op

_UNARY = {
    "exp": "expf({x})",
    "log": "logf({x})",
    "tanh": "tanhf({x})",
    "logistic": "1.0f / (1.0f + expf(-{x}))",
    "sqrt": "sqrtf({x})",
    "rsqrt": "1.0f / sqrtf({x})",
    "square": "{x} * {x}",
    "neg": "-{x}",
    "abs": "fabsf({x})",
    "sin": "sinf({x})",
    "cos": "cosf({x})",
    "erf": "erff({x})",
    "erfc": "erfcf({x})",
    "gelu": "0.5f * {x} * erfcf(-{x} * 0.707106781f)",
}
_BINARY = {
    "add": "{x} + {y}",
    "sub": "{x} - {y}",
    "mul": "{x} * {y}",
    "div": "{x} / {y}",
    "max": "fmaxf({x}, {y})",
    "min": "fminf({x}, {y})",
    "pow": "powf({x}, {y})",
}
_KINDS = ("dense", "conv", "pool", "reduce", *(f"unary {how}" for how in _UNARY),
          *(f"binary {how}" for how in _BINARY), "clip", "matmul", "select", "lookup", "take",
          "reshape", "expand", "transpose")  # fmt: skip


class CFloat(Format):
    """For what has a C compiler and nothing else."""

    name = "c"

    def check_network(self, source: Source) -> None:
        check_kinds(source, self.name, _KINDS)
        check_one(source, self.name)

    def write(self, source: Source, folder: Path) -> list[Path]:
        head = folder / f"{source.name}.h"
        head.write_text(c_files.header(source, "A network in float32."))
        path = folder / f"{source.name}.c"
        path.write_text(_Writer(source).text(head.name))
        return [path, head]

    def open(self, files: Sequence[Path], source: Source) -> Any:
        return Compiled(files[0], source)


def check_one(source: Source, name: str) -> None:
    """Raises UserError for several inputs or outputs."""
    graph = source.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UserError(
            f"format {name!r} takes networks of one input and one output; this one has"
            f" {len(graph.inputs)} and {len(graph.outputs)}"
        )


_HELPERS = {
    "clip": """
static float clip(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
""",
    "dense": """
/* y[rows, n] = x[rows, k] w[k, n] + b */
static void dense(const float *x, const float *w, const float *b, float *y, int rows, int k, int n,
                  float low, float high) {
  for (int r = 0; r < rows; r++, x += k, y += n) {
    for (int j = 0; j < n; j++) y[j] = b[j];
    for (int i = 0; i < k; i++)
      for (int j = 0; j < n; j++) y[j] += x[i] * w[i * n + j];
    for (int j = 0; j < n; j++) y[j] = clip(y[j], low, high);
  }
}
""",
    "conv": """
/* s: height, width, channels; height, width, channels of the result; height, width of the kernel;
   strides, padding above and left, dilation, groups */
static void conv(const float *x, const float *w, const float *b, float *y, const int *s, float low,
                 float high) {
  const int ci = s[2] / s[14], co = s[5] / s[14];
  for (int oy = 0; oy < s[3]; oy++)
    for (int ox = 0; ox < s[4]; ox++, y += s[5]) {
      for (int c = 0; c < s[5]; c++) y[c] = b[c];
      for (int ky = 0; ky < s[6]; ky++) {
        const int iy = oy * s[8] + ky * s[12] - s[10];
        if (iy < 0 || iy >= s[0]) continue;
        for (int kx = 0; kx < s[7]; kx++) {
          const int ix = ox * s[9] + kx * s[13] - s[11];
          if (ix < 0 || ix >= s[1]) continue;
          const float *p = x + (iy * s[1] + ix) * s[2], *q = w + (ky * s[7] + kx) * ci * s[5];
          if (ci == 1 && co == 1) {
            for (int c = 0; c < s[5]; c++) y[c] += p[c] * q[c];
            continue;
          }
          for (int g = 0; g < s[14]; g++)
            for (int i = 0; i < ci; i++)
              for (int j = 0; j < co; j++)
                y[g * co + j] += p[g * ci + i] * q[i * s[5] + g * co + j];
        }
      }
      for (int c = 0; c < s[5]; c++) y[c] = clip(y[c], low, high);
    }
}
""",
    "pool": """
/* s: as of conv; what is outside counts as nothing */
static void pool(const float *x, float *y, const int *s, int largest, float scale) {
  for (int oy = 0; oy < s[3]; oy++)
    for (int ox = 0; ox < s[4]; ox++, y += s[5])
      for (int c = 0; c < s[5]; c++) {
        float found = largest ? -INFINITY : 0.0f;
        for (int ky = 0; ky < s[6]; ky++)
          for (int kx = 0; kx < s[7]; kx++) {
            const int iy = oy * s[8] + ky - s[10], ix = ox * s[9] + kx - s[11];
            if (iy < 0 || iy >= s[0] || ix < 0 || ix >= s[1]) continue;
            const float v = x[(iy * s[1] + ix) * s[2] + c];
            found = largest ? fmaxf(found, v) : found + v;
          }
        y[c] = found * scale;
      }
}
""",
}


def sizes_of(op: Op, shape: tuple[int, ...]) -> list[int]:
    """What `conv` and `pool` of the C files call s."""
    window = op.inputs[1].shape[:2] if op.kind == "conv" else op.attrs["window"]
    (top, _), (left, _) = op.attrs["padding"]
    dilation, groups = op.attrs.get("dilation", (1, 1)), op.attrs.get("groups", 1)
    return [*shape[1:], *op.shape[1:], *window, *op.attrs["strides"], top, left, *dilation, groups]


class _Writer:
    def __init__(self, source: Source):
        self.name, self.graph = source.name, source.graph
        self.places = c_files.places(self.graph, ["reshape"])
        self.constants: list[str] = []
        self.used: set[str] = set()

    def text(self, head: str) -> str:
        lines = []
        for op in self.graph.ops:
            if op.kind != "reshape":
                lines.append(f"  {getattr(self, f'_{op.kind}')(op)}  /* {op.kind} {op.name} */")
        out = self.graph.outputs[0]
        size = math.prod(self.graph.shape(out))
        kind = "int32_t" if self.integers else "float"
        if self.used & {"dense", "conv"}:
            self.used.add("clip")
        helpers = "".join(text for name, text in _HELPERS.items() if name in self.used)
        body = "\n".join(lines)
        return (
            f'#include "{head}"\n#include <math.h>\n#include <string.h>\n\n'
            + f"static float buffer[{max(1, self.places.size)}];\n"
            + "".join(self.constants)
            + helpers
            + f"\nvoid {self.name}_run(const {kind} *input, float *output) {{\n{body}\n"
            + f"  memcpy(output, {self.at(out)}, {size} * sizeof(float));\n}}\n"
        )

    @property
    def integers(self) -> bool:
        ((_, dtype),) = self.graph.inputs.values()
        return np.issubdtype(dtype, np.integer)

    def at(self, x: Any) -> str:
        """A value or a constant as a C pointer."""
        if isinstance(x, str):
            return f"(buffer + {self.places.at[x]})" if x in self.places.at else "input"
        kind = "bool" if x.dtype == bool else "float32"
        name = f"c{len(self.constants)}"
        self.constants.append(array(name, x, kind))
        return name

    def shape(self, x: Any) -> tuple[int, ...]:
        return self.graph.shape(x) if isinstance(x, str) else x.shape

    def clip(self, op: Op) -> str:
        low, high = op.attrs.get("clip") or (-math.inf, math.inf)
        return f"{number(low)}, {number(high)}"

    def sizes(self, op: Op) -> str:
        numbers = ", ".join(map(str, sizes_of(op, self.shape(op.inputs[0]))))
        return f"(const int[]){{{numbers}}}"

    def each(self, op: Op, *given: Any, made: str) -> str:
        """A loop over a result, of values that are broadcast to it."""
        shapes = [self.shape(x) for x in given]
        pointers = [self.at(x) for x in given]
        if all(shape == op.shape for shape in shapes):
            shape, names = (math.prod(op.shape),), ["i0"]
            steps: list[Any] = [[1]] * len(given)
            out = "i0"
        else:
            shape, names = op.shape, [f"i{d}" for d in range(len(op.shape))]
            steps = [strides(s, op.shape) for s in shapes]
            out = index(strides(op.shape), names)
        read = [f"{p}[{index(s, names)}]" for p, s in zip(pointers, steps, strict=True)]
        value = made.format(**dict(zip("xyz", read, strict=False)))
        if op.kind != "clip" and op.attrs.get("clip"):
            self.used.add("clip")
            value = f"clip({value}, {self.clip(op)})"
        return loops(shape, f"{self.at(op.name)}[{out}] = {value};")

    def _dense(self, op: Op) -> str:
        self.used.add("dense")
        x, w, b = map(self.at, op.inputs)
        rows, k, n = op.rows()
        return f"dense({x}, {w}, {b}, {self.at(op.name)}, {rows}, {k}, {n}, {self.clip(op)});"

    def _conv(self, op: Op) -> str:
        self.used.add("conv")
        x, w, b = map(self.at, op.inputs)
        return f"conv({x}, {w}, {b}, {self.at(op.name)}, {self.sizes(op)}, {self.clip(op)});"

    def _pool(self, op: Op) -> str:
        self.used.add("pool")
        (x,), largest = map(self.at, op.inputs), int(op.attrs["how"] == "max")
        scale = number(op.attrs["scale"])
        return f"pool({x}, {self.at(op.name)}, {self.sizes(op)}, {largest}, {scale});"

    def _reduce(self, op: Op) -> str:
        shape = self.shape(op.inputs[0])
        x, axes, how = self.at(op.inputs[0]), op.attrs["axes"], op.attrs["how"]
        kept = [d for d in range(len(shape)) if d not in axes]
        names = [f"j{d}" for d in range(len(shape))]
        for place, d in enumerate(kept):
            names[d] = f"i{place}"
        inner = tuple(shape[d] if d in axes else 1 for d in range(len(shape)))
        start = {"sum": "0.0f", "max": "-INFINITY", "min": "INFINITY"}[how]
        read = f"{x}[{index(strides(shape), names)}]"
        add = {"sum": f"s += {read};", "max": f"s = fmaxf(s, {read});",
               "min": f"s = fminf(s, {read});"}[how]  # fmt: skip
        out = index(strides(op.shape), [f"i{d}" for d in range(len(op.shape))])
        body = f"float s = {start}; {loops(inner, add, 'j')}"
        end = f" {self.at(op.name)}[{out}] = s * {number(op.attrs['scale'])};"
        return loops(op.shape, body + end) if op.shape else f"{{ {body + end} }}"

    def _binary(self, op: Op) -> str:
        return self.each(op, *op.inputs, made=_BINARY[op.attrs["how"]])

    def _unary(self, op: Op) -> str:
        return self.each(op, *op.inputs, made=_UNARY[op.attrs["how"]])

    def _clip(self, op: Op) -> str:
        self.used.add("clip")
        return self.each(op, *op.inputs, made=f"clip({{x}}, {self.clip(op)})")

    def _select(self, op: Op) -> str:
        return self.each(op, *op.inputs, made="{x} ? {y} : {z}")

    def _expand(self, op: Op) -> str:
        return self.each(op, *op.inputs, made="{x}")

    def _matmul(self, op: Op) -> str:
        x, y = op.inputs
        k, out = self.shape(x)[-1], len(op.shape)
        names = [f"i{d}" for d in range(out)]
        lead = [strides(s, (*op.shape[:-2], *s[-2:]))[:-2] for s in (self.shape(x), self.shape(y))]
        left, right = [*lead[0], k, 0], [*lead[1], 0, 1]
        n = op.shape[-1]
        a = f"{self.at(x)}[{index(left, names)} + k]"
        b = f"{self.at(y)}[{index(right, names)} + k * {n}]"
        body = f"float s = 0.0f; for (int k = 0; k < {k}; k++) s += {a} * {b};"
        return loops(op.shape, f"{body} {self.at(op.name)}[{index(strides(op.shape), names)}] = s;")

    def _lookup(self, op: Op) -> str:
        table, at = op.inputs
        n, rows = table.shape[1], math.prod(op.shape) // table.shape[1]
        read = f"{self.at(table)}[{self.at(at)}[i0] * {n} + i1]"
        return loops((rows, n), f"{self.at(op.name)}[i0 * {n} + i1] = {read};")

    def _take(self, op: Op) -> str:
        table = f"c{len(self.constants)}"
        self.constants.append(array(table, op.attrs["positions"], "int32"))
        read = op.inputs[0]
        return c_files.taken(op, self.shape(read), table, self.at(read), self.at(op.name))

    def _transpose(self, op: Op) -> str:
        read = op.inputs[0]
        return c_files.transposed(op, self.shape(read), self.at(read), self.at(op.name))
