"""What both kinds of C share: arrays as text, the place of every value in one buffer, compiling."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynhp_jax.export.formats.format import Source, Unrunnable
from dynhp_jax.export.graph import Graph, Op

TYPES = {"float32": "float", "int32": "int32_t", "int8": "int8_t", "bool": "uint8_t"}


def array(name: str, values: np.ndarray, dtype: str) -> str:
    """A static constant array."""
    flat = np.asarray(values).reshape(-1)
    text = [_number(x) for x in flat] if dtype == "float32" else [str(int(x)) for x in flat]
    lines = [", ".join(text[k : k + 12]) for k in range(0, len(text), 12)]
    body = ",\n  ".join(lines)
    return f"static const {TYPES[dtype]} {name}[{flat.size}] = {{\n  {body}\n}};\n"


def _number(x: float) -> str:
    if math.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    text = f"{float(x):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


number = _number


def strides(shape: Sequence[int], out: Sequence[int] | None = None) -> list[int]:
    """Steps along each axis, 0 along those that are broadcast to the axes of `out`."""
    found, step = [], 1
    for size in reversed(shape):
        found.append(0 if out is not None and size == 1 else step)
        step *= size
    found.reverse()
    return [0] * (len(out) - len(shape)) + found if out is not None else found


def index(steps: Sequence[int], names: Sequence[str]) -> str:
    """An index as a sum."""
    parts = [name if step == 1 else f"{name} * {step}"
             for name, step in zip(names, steps, strict=True) if step]  # fmt: skip
    return " + ".join(parts) or "0"


def loops(shape: Sequence[int], body: str, first: str = "i") -> str:
    """Nested loops over the axes that are longer than 1; the names are i0, i1, ..."""
    text = body
    for d in reversed(range(len(shape))):
        if shape[d] == 1:
            text = re.sub(rf"\b{first}{d}\b", "0", text)
        else:
            text = f"for (int {first}{d} = 0; {first}{d} < {shape[d]}; {first}{d}++) {{ {text} }}"
    return text


def taken(op: Op, shape: Sequence[int], table: str, read: str, made: str) -> str:
    """Positions of an axis, which the constant `table` holds, from one array to another.

    Args:
      op: of the kind 'take'.
      shape: of what is read.
      table: name of the constant.
      read, made: the two arrays.
    """
    names = [f"i{d}" for d in range(len(shape))]
    out = index(strides(op.shape), names)
    names[op.attrs["axis"]] = f"{table}[i{op.attrs['axis']}]"
    return loops(op.shape, f"{made}[{out}] = {read}[{index(strides(shape), names)}];")


def transposed(op: Op, shape: Sequence[int], read: str, made: str) -> str:
    """An array of this shape with its axes in another order; the arguments are as in `taken`."""
    steps = strides(shape)
    names = [f"i{d}" for d in range(len(op.shape))]
    place = index([steps[d] for d in op.attrs["axes"]], names)
    return loops(op.shape, f"{made}[{index(strides(op.shape), names)}] = {read}[{place}];")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where values are in the buffer: {name: first number}, and how many numbers it has."""

    at: dict[str, int]
    size: int


def places(graph: Graph, aliases: Iterable[str], with_inputs: bool = False) -> Places:
    """A place for every value, such that those that are needed at the same time do not overlap.

    Largest first, each at the lowest place that is free while it lives.

    Args:
      aliases: kinds of operations whose result is the same memory as their input.
      with_inputs: whether the inputs have a place, too.
    """
    aliases = set(aliases)
    owner = {name: name for name in graph.inputs}
    for op in graph.ops:
        owner[op.name] = owner[op.inputs[0]] if op.kind in aliases else op.name
    born = {owner[op.name]: k for k, op in reversed(list(enumerate(graph.ops)))}
    born |= dict.fromkeys(graph.inputs if with_inputs else (), -1)
    dies = dict(born)
    for k, op in enumerate(graph.ops):
        for name in op.data:
            dies[owner[name]] = k
    for name in graph.outputs:
        dies[owner[name]] = len(graph.ops)
    sizes = {
        name: math.prod(graph.shape(name))
        for name in born
        if born[name] < 0 or name not in graph.inputs
    }
    at: dict[str, int] = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], born[n])):
        busy = sorted(
            (at[other], at[other] + sizes[other])
            for other in at
            if born[other] <= dies[name] and born[name] <= dies[other]
        )
        start = 0
        for low, high in busy:
            if start + sizes[name] <= low:
                break
            start = max(start, high)
        at[name] = start
    total = max((at[name] + sizes[name] for name in at), default=0)
    return Places({n: at[o] for n, o in owner.items() if o in at}, total)


def header(source: Source, what: str) -> str:
    """The header of a network: sizes and the one function."""
    name, graph = source.name, source.graph
    (shape, dtype), *others = graph.inputs.values()
    if others or len(graph.outputs) != 1:
        raise ValueError("C takes networks of one input and one output")
    out = graph.shape(graph.outputs[0])
    kind = "int32_t" if np.issubdtype(dtype, np.integer) else "float"
    guard, upper = f"{name.upper()}_H", name.upper()
    return f"""/* {what} Written by dynhp_jax. */
#ifndef {guard}
#define {guard}
#include <stdint.h>
#define {upper}_INPUTS {math.prod(shape)}  /* {list(shape[1:])}, row by row */
#define {upper}_OUTPUTS {math.prod(out)}  /* {list(out[1:])} */
#ifdef __cplusplus
extern "C" {{
#endif
/* One example. It allocates nothing and is not reentrant: it has one static buffer. */
void {name}_run(const {kind} *input, float *output);
#ifdef __cplusplus
}}
#endif
#endif
"""


def compiler() -> str:
    """The C compiler of this machine.

    Raises:
      Unrunnable: there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return found
    raise Unrunnable("there is no C compiler here (cc, gcc or clang)")


class Compiled:
    """A C file as a function of whole inputs.

    Attributes:
      ram: bytes that it takes for one example: static buffers and the stack.
      flash: bytes of code and constants.
    """

    def __init__(self, file: Path, source: Source, suffix: str = ""):
        cc = compiler()
        self._folder = tempfile.TemporaryDirectory()
        folder, graph = Path(self._folder.name), source.graph
        library = folder / "network.so"
        strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", str(file.parent)]
        _call([cc, *strict, "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library),
               str(file), "-lm"], folder)  # fmt: skip
        self.ram, self.flash = _sizes(cc, file, folder)
        self._run = getattr(ctypes.CDLL(str(library)), f"{source.name}{suffix}_run")
        self._run.restype = None
        ((shape, dtype),) = graph.inputs.values()
        self._shape, self._dtype = shape[1:], "int32" if np.issubdtype(dtype, np.integer) else "f4"
        self._out = graph.shape(graph.outputs[0])[1:]

    def __call__(self, inputs: Any) -> np.ndarray:
        (x,) = (np.ascontiguousarray(leaf, self._dtype) for leaf in jax.tree.leaves(inputs))
        out = np.empty((len(x), *self._out), np.float32)
        step, made = x[0].nbytes, out[0].nbytes
        for k in range(len(x)):
            self._run(
                ctypes.c_void_p(x.ctypes.data + k * step),
                ctypes.c_void_p(out.ctypes.data + k * made),
            )
        return out


def _sizes(cc: str, file: Path, folder: Path) -> tuple[int | None, int | None]:
    """(RAM, flash) in bytes: what the compiler says of the stack, and the object file of the rest.

    No function calls itself; the deepest stack is the main one's and the largest other one's.
    """
    made = folder / "network.o"
    flags = ["-std=c99", "-Os", "-fstack-usage", "-I", str(file.parent)]
    try:
        _call([cc, *flags, "-c", "-o", str(made), str(file)], folder)
        said = _call(["size", str(made)], folder).splitlines()[1].split()
    except (Unrunnable, OSError):
        return None, None
    text, data, bss = map(int, said[:3])
    frames = {}
    for usage in folder.glob("*.su"):
        for line in usage.read_text().splitlines():
            place, size, *_ = line.split("\t")
            frames[place.rsplit(":", 1)[-1]] = int(size)
    main = max((size for name, size in frames.items() if name.endswith("_run")), default=0)
    others = max((size for name, size in frames.items() if not name.endswith("_run")), default=0)
    return data + bss + main + others, text + data


def _call(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split())[:300]
        raise Unrunnable(f"{command[0]} failed: {said}")
    return done.stdout
