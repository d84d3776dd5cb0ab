"""C99 in 8-bit integers: as `c`, a quarter of the bytes; sums in 32 bits, no float but at the ends.

`run` takes and gives floats; what is between are integers. The last layer's sums become floats
without being rounded to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.export import quantise
from dynhp_jax.export.formats import c_files
from dynhp_jax.export.formats.c_files import Compiled, array, index, loops, number, strides
from dynhp_jax.export.formats.c_float import check_one, sizes_of
from dynhp_jax.export.formats.format import Format, Source, check_kinds
from dynhp_jax.export.graph import Op

_KINDS = ("dense", "conv", "pool", "reduce sum", "binary add", "binary sub", "clip", "reshape",
          "take", "transpose")  # fmt: skip


class CInt8(Format):
    """For microcontrollers without a floating-point unit."""

    name = "c-int8"
    tolerance = 0.3  # of rounding to 8 bits; the error on the test set says what it costs

    def check_network(self, source: Source) -> None:
        check_kinds(source, self.name, _KINDS)
        check_one(source, self.name)
        ((_, dtype),) = source.graph.inputs.values()
        if np.issubdtype(dtype, np.integer):
            raise UserError(f"format {self.name!r} takes inputs of real numbers; leave it out")
        if source.calibration is None:
            raise UserError(f"format {self.name!r} needs calibration examples, to choose ranges by")

    def write(self, source: Source, folder: Path) -> list[Path]:
        head = folder / f"{source.name}_int8.h"
        named = Source(source.network, source.calibration, f"{source.name}_int8")
        named.__dict__["graph"] = source.graph
        head.write_text(c_files.header(named, "A network in 8-bit integers."))
        path = folder / f"{named.name}.c"
        path.write_text(_Writer(named).text(head.name))
        return [path, head]

    def open(self, files: Sequence[Path], source: Source) -> Any:
        return Compiled(files[0], source, "_int8")


_HELPERS = {
    "scaled": """
/* x * m / 2^shift + zero, rounded and clipped */
static int8_t scaled(int64_t x, int64_t m, int shift, const int *q) {
  const int64_t v = ((x * m + ((int64_t)1 << (shift - 1))) >> shift) + q[1];
  return (int8_t)(v < q[2] ? q[2] : v > q[3] ? q[3] : v);
}
""",
    "sum": """
/* b + the products of a row and a kernel */
static int32_t sum(const int8_t *x, const int8_t *w, int32_t b, int k, int zero) {
  for (int i = 0; i < k; i++) b += (int32_t)(x[i] - zero) * w[i];
  return b;
}
""",
    "dense": """
/* q: zero of x, zero of y, smallest and largest y */
static void dense(const int8_t *x, const int8_t *w, const int32_t *b, int8_t *y, int rows, int k,
                  int n, const int32_t *m, int shift, const int *q) {
  for (int r = 0; r < rows; r++, x += k, y += n)
    for (int j = 0; j < n; j++) y[j] = scaled(sum(x, w + j * k, b[j], k, q[0]), m[j], shift, q);
}
""",
    "conv": """
/* s: height, width, channels; height, width, channels of the result; height, width of the kernel;
   strides, padding above and left, dilation, groups */
static void conv(const int8_t *x, const int8_t *w, const int32_t *b, int8_t *y, const int *s,
                 const int32_t *m, int shift, const int *q) {
  const int ci = s[2] / s[14], co = s[5] / s[14];
  for (int oy = 0; oy < s[3]; oy++)
    for (int ox = 0; ox < s[4]; ox++)
      for (int c = 0; c < s[5]; c++) {
        int32_t found = b[c];
        for (int ky = 0; ky < s[6]; ky++) {
          const int iy = oy * s[8] + ky * s[12] - s[10];
          if (iy < 0 || iy >= s[0]) continue;
          for (int kx = 0; kx < s[7]; kx++) {
            const int ix = ox * s[9] + kx * s[13] - s[11];
            if (ix < 0 || ix >= s[1]) continue;
            found = sum(x + (iy * s[1] + ix) * s[2] + c / co * ci,
                        w + ((c * s[6] + ky) * s[7] + kx) * ci, found, ci, q[0]);
          }
        }
        *y++ = scaled(found, m[c], shift, q);
      }
}
""",
    "pool": """
/* s: as of conv; what is outside counts as nothing */
static void pool(const int8_t *x, int8_t *y, const int *s, int largest, int64_t m, int shift,
                 const int *q) {
  for (int oy = 0; oy < s[3]; oy++)
    for (int ox = 0; ox < s[4]; ox++, y += s[5])
      for (int c = 0; c < s[5]; c++) {
        int32_t found = largest ? -128 : 0;
        for (int ky = 0; ky < s[6]; ky++)
          for (int kx = 0; kx < s[7]; kx++) {
            const int iy = oy * s[8] + ky - s[10], ix = ox * s[9] + kx - s[11];
            if (iy < 0 || iy >= s[0] || ix < 0 || ix >= s[1]) continue;
            const int32_t v = x[(iy * s[1] + ix) * s[2] + c];
            found = largest ? (v > found ? v : found) : found + v - q[0];
          }
        y[c] = largest ? (int8_t)found : scaled(found, m, shift, q);
      }
}
""",
}


class _Writer:
    def __init__(self, source: Source):
        self.name, self.graph = source.name, source.graph
        self.ranges = quantise.ranges(self.graph, source.calibration)
        self.places = c_files.places(self.graph, ["reshape"], with_inputs=True)
        self.constants: list[str] = []
        self.used: set[str] = set()
        (self.input,) = self.graph.inputs
        (self.output,) = self.graph.outputs
        self.last = self.graph.made_by[self.output]
        self.direct = self.last.kind == "dense" and not self.last.attrs.get("clip")

    def text(self, head: str) -> str:
        known, size = self.ranges[self.input], math.prod(self.graph.shape(self.input))
        lines = [
            f"for (int i = 0; i < {size}; i++) {{ const float v = input[i] *"
            f" {number(1 / known.scale)} + {known.zero}.0f; {self.at(self.input)}[i] ="
            " (int8_t)(v < -128.0f ? -128.0f : v > 127.0f ? 127.0f : v < 0 ? v - 0.5f : v + 0.5f);"
            " }"
        ]
        for op in self.graph.ops:
            if op.kind != "reshape" and not (self.direct and op is self.last):
                lines.append(f"{getattr(self, f'_{op.kind}')(op)}  /* {op.kind} {op.name} */")
        lines.append(self._end())
        if self.used & {"dense", "conv"}:
            self.used.add("sum")
        body = "\n".join(f"  {line}" for line in lines)
        if "scaled(" in body or self.used - {"sum"}:
            self.used.add("scaled")
        helpers = "".join(text for name, text in _HELPERS.items() if name in self.used)
        return (
            f'#include "{head}"\n\n'
            + f"static int8_t buffer[{max(1, self.places.size)}];\n"
            + "".join(self.constants)
            + helpers
            + f"\nvoid {self.name}_run(const float *input, float *output) {{\n{body}\n}}\n"
        )

    def at(self, name: str) -> str:
        """A value as a C pointer."""
        return f"(buffer + {self.places.at[name]})"

    def constant(self, values: np.ndarray, dtype: str) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(array(name, values, dtype))
        return name

    def bounds(self, op: Op, zero: int) -> str:
        """Zero of the operand, zero of the result, its smallest and its largest integer."""
        known = self.ranges[op.name]
        low, high = known.bounds(op.attrs.get("clip"))
        return f"(const int[]){{{zero}, {known.zero}, {low}, {high}}}"

    def sizes(self, op: Op) -> str:
        numbers = ", ".join(map(str, sizes_of(op, self.graph.shape(op.inputs[0]))))
        return f"(const int[]){{{numbers}}}"

    def layer(self, op: Op) -> tuple[str, str, str]:
        """(kernel and bias, multipliers and shift, bounds) as arguments."""
        made = quantise.layer(op, self.ranges)
        multipliers, shift = quantise.fixed(made.scales / self.ranges[op.name].scale)
        w, b = self.constant(made.kernel, "int8"), self.constant(made.bias, "int32")
        m = self.constant(multipliers, "int32")
        return f"{w}, {b}", f"{m}, {shift}", self.bounds(op, self.ranges[op.inputs[0]].zero)

    def _dense(self, op: Op) -> str:
        self.used.add("dense")
        rows, k, n = op.rows()
        arrays, factors, bounds = self.layer(op)
        x, y = self.at(op.inputs[0]), self.at(op.name)
        return f"dense({x}, {arrays}, {y}, {rows}, {k}, {n}, {factors}, {bounds});"

    def _conv(self, op: Op) -> str:
        self.used.add("conv")
        arrays, factors, bounds = self.layer(op)
        x, y = self.at(op.inputs[0]), self.at(op.name)
        return f"conv({x}, {arrays}, {y}, {self.sizes(op)}, {factors}, {bounds});"

    def _pool(self, op: Op) -> str:
        self.used.add("pool")
        x, largest = op.inputs[0], int(op.attrs["how"] == "max")
        factor = op.attrs["scale"] * self.ranges[x].scale / self.ranges[op.name].scale
        (m,), shift = quantise.fixed(factor)
        rest = f"{self.sizes(op)}, {largest}, {m}, {shift}, {self.bounds(op, self.ranges[x].zero)}"
        return f"pool({self.at(x)}, {self.at(op.name)}, {rest});"

    def _reduce(self, op: Op) -> str:
        x, axes = op.inputs[0], op.attrs["axes"]
        shape, known = self.graph.shape(x), self.ranges[op.inputs[0]]
        (m,), shift = quantise.fixed(op.attrs["scale"] * known.scale / self.ranges[op.name].scale)
        names = [f"j{d}" for d in range(len(shape))]
        for place, d in enumerate(d for d in range(len(shape)) if d not in axes):
            names[d] = f"i{place}"
        inner = tuple(shape[d] if d in axes else 1 for d in range(len(shape)))
        read = f"{self.at(x)}[{index(strides(shape), names)}]"
        out = index(strides(op.shape), [f"i{d}" for d in range(len(op.shape))])
        add = loops(inner, f"s += {read} - {known.zero};", "j")
        end = f"{self.at(op.name)}[{out}] = scaled(s, {m}, {shift}, {self.bounds(op, 0)});"
        return loops(op.shape, f"int32_t s = 0; {add} {end}")

    def _binary(self, op: Op) -> str:
        """A sum or difference of two values, each times its own fixed-point number."""
        operands, factors = [], []
        names = [f"i{d}" for d in range(len(op.shape))]
        for x in op.inputs:
            computed = isinstance(x, str)
            known = self.ranges[x] if computed else quantise.range_of(x)
            shape = self.graph.shape(x) if computed else x.shape
            base = self.at(x) if computed else self.constant(known.integers(x), "int8")
            operands.append(f"({base}[{index(strides(shape, op.shape), names)}] - {known.zero})")
            factors.append(known.scale / self.ranges[op.name].scale)
        if op.attrs["how"] == "sub":
            factors[1] = -factors[1]
        (first, second), shift = quantise.fixed(factors)
        total = f"{operands[0]} * INT64_C({first}) + {operands[1]} * INT64_C({second})"
        made = f"scaled({total}, 1, {shift}, {self.bounds(op, 0)})"
        return loops(op.shape, f"{self.at(op.name)}[{index(strides(op.shape), names)}] = {made};")

    def _clip(self, op: Op) -> str:
        known = self.ranges[op.inputs[0]]
        (m,), shift = quantise.fixed(known.scale / self.ranges[op.name].scale)
        read = f"{self.at(op.inputs[0])}[i0] - {known.zero}"
        made = f"scaled({read}, {m}, {shift}, {self.bounds(op, 0)})"
        return loops((math.prod(op.shape),), f"{self.at(op.name)}[i0] = {made};")

    def _take(self, op: Op) -> str:
        table = self.constant(op.attrs["positions"], "int32")
        read = op.inputs[0]
        return c_files.taken(op, self.graph.shape(read), table, self.at(read), self.at(op.name))

    def _transpose(self, op: Op) -> str:
        read = op.inputs[0]
        return c_files.transposed(op, self.graph.shape(read), self.at(read), self.at(op.name))

    def _end(self) -> str:
        """Floats: of the last layer's sums, or of the last value."""
        op = self.last
        if not self.direct:
            known, size = self.ranges[self.output], math.prod(self.graph.shape(self.output))
            read = f"({self.at(self.output)}[i] - {known.zero}) * {number(known.scale)}"
            return f"for (int i = 0; i < {size}; i++) output[i] = {read};"
        self.used.add("sum")
        made, (rows, k, n) = quantise.layer(op, self.ranges), op.rows()
        w, b = self.constant(made.kernel, "int8"), self.constant(made.bias, "int32")
        scales = self.constant(made.scales, "float32")
        x, zero = self.at(op.inputs[0]), self.ranges[op.inputs[0]].zero
        value = f"sum({x} + r * {k}, {w} + j * {k}, {b}[j], {k}, {zero}) * {scales}[j]"
        return (
            f"for (int r = 0; r < {rows}; r++) for (int j = 0; j < {n}; j++)"
            f" output[r * {n} + j] = {value};"
        )
