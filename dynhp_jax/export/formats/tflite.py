"""TFLite, what LiteRT runs on phones and microcontrollers: its own schema, without TensorFlow.

The file takes one example at a time, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynhp_jax.export.formats.format import Format, Source, check_kinds
from dynhp_jax.export.graph import Op

_UNARY = {
    "exp": "EXP",
    "log": "LOG",
    "tanh": "TANH",
    "logistic": "LOGISTIC",
    "sqrt": "SQRT",
    "rsqrt": "RSQRT",
    "square": "SQUARE",
    "neg": "NEG",
    "abs": "ABS",
    "sin": "SIN",
    "cos": "COS",
    "gelu": "GELU",
}
_BINARY = {
    "add": "ADD",
    "sub": "SUB",
    "mul": "MUL",
    "div": "DIV",
    "max": "MAXIMUM",
    "min": "MINIMUM",
    "pow": "POW",
}
_REDUCE = {"sum": "SUM", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}
_KINDS = ("dense", "conv", "pool", "reduce", *(f"unary {how}" for how in _UNARY), "binary", "clip",
          "matmul", "select", "lookup", "take", "reshape", "expand", "transpose")  # fmt: skip
_VERSION = 3  # of the schema
_NEWER = {"FULLY_CONNECTED": 5, "BATCH_MATMUL": 1}  # versions of operations, where not 1


class TfLite(Format):
    """For LiteRT."""

    name = "tflite"
    packages = ("ai_edge_litert", "flatbuffers")

    def check_network(self, source: Source) -> None:
        check_kinds(source, self.name, _KINDS)

    def write(self, source: Source, folder: Path) -> list[Path]:
        path = folder / f"{source.name}.tflite"
        path.write_bytes(_Writer(source).content())
        return [path]

    def open(self, files: Sequence[Path], source: Source) -> Any:
        return interpreter(files[0])


def interpreter(path: Path, threads: int = 1) -> Callable:
    """A file in LiteRT's interpreter, as a function of whole inputs, one example after another."""
    from ai_edge_litert.interpreter import Interpreter

    running = Interpreter(model_path=str(path), num_threads=threads)
    running.allocate_tensors()
    inputs = [each["index"] for each in running.get_input_details()]
    outputs = [each["index"] for each in running.get_output_details()]

    def one(leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
        for at, leaf in zip(inputs, leaves, strict=True):
            running.set_tensor(at, leaf)
        running.invoke()
        return [running.get_tensor(at) for at in outputs]

    def call(given: Any) -> Any:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(given)]
        rows = [one([leaf[k : k + 1] for leaf in leaves]) for k in range(len(leaves[0]))]
        found = [np.concatenate(each) for each in zip(*rows, strict=True)]
        return found[0] if len(found) == 1 else found

    return call


class _Writer:
    def __init__(self, source: Source):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.graph, self.name = schema, source.graph, source.name
        self.buffers, self.tensors, self.operators = [schema.BufferT()], [], []
        self.codes: dict[str, int] = {}
        self.at: dict[str, int] = {}

    def content(self) -> bytes:
        import flatbuffers

        schema = self.schema
        for name, (shape, dtype) in self.graph.inputs.items():
            self.at[name] = self.tensor(name, shape, dtype)
        for op in self.graph.ops:
            self.op(op)
        sub = schema.SubGraphT()
        sub.name, sub.tensors, sub.operators = self.name, self.tensors, self.operators
        sub.inputs = [self.at[name] for name in self.graph.inputs]
        sub.outputs = [self.at[name] for name in self.graph.outputs]
        model = schema.ModelT()
        model.version, model.description = _VERSION, "written by dynhp_jax"
        model.subgraphs, model.buffers = [sub], self.buffers
        model.operatorCodes = [self.code(name) for name in self.codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def code(self, name: str) -> Any:
        made, number = self.schema.OperatorCodeT(), getattr(self.schema.BuiltinOperator, name)
        made.builtinCode, made.deprecatedBuiltinCode = number, min(number, 127)
        made.version = _NEWER.get(name, 1)
        return made

    def tensor(self, name: str, shape: Sequence[int], dtype: Any, data: Any = None) -> int:
        kinds = {"f": "FLOAT32", "i": "INT32", "b": "BOOL"}
        made = self.schema.TensorT()
        made.name, made.shape, made.buffer = name, [int(size) for size in shape], 0
        made.type = getattr(self.schema.TensorType, kinds[np.dtype(dtype).kind])
        if data is not None:
            held = self.schema.BufferT()
            held.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(held)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, value: Any, dtype: Any = np.float32) -> int:
        value = np.asarray(value, dtype)
        return self.tensor(f"c{len(self.tensors)}", value.shape, dtype, value)

    def emit(self, kind: str, given: Sequence[int], result: int, **options: Any) -> int:
        """An operation of LiteRT; `options`: the fields of its options, and their type, `of`."""
        made = self.schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(kind, len(self.codes))
        made.inputs, made.outputs = list(given), [result]
        if of := options.pop("of", None):
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, of)
            made.builtinOptions = getattr(self.schema, f"{of}T")()
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)
        return result

    def between(self, shape: Sequence[int], dtype: Any = np.float32) -> int:
        return self.tensor(f"t{len(self.tensors)}", shape, dtype)

    def op(self, op: Op) -> None:
        given = [self.at[x] if isinstance(x, str) else
                 -1 if op.kind in ("dense", "conv") and k == 1 else  # a kernel has another order
                 self.constant(x, bool if x.dtype == bool else np.float32)
                 for k, x in enumerate(op.inputs)]  # fmt: skip
        result = self.at[op.name] = self.tensor(op.name, op.shape, op.dtype)
        clip = op.attrs.get("clip") if op.kind != "clip" else None
        fused = {None: 0, (0.0, math.inf): 1, (0.0, 6.0): 3}.get(clip)
        if fused is None:
            unclipped = self.between(op.shape)
            getattr(self, f"_{op.kind}")(op, given, unclipped, 0)
            self.clipped(unclipped, clip, op.shape, result)
        else:
            getattr(self, f"_{op.kind}")(op, given, result, fused)

    def clipped(self, x: int, clip: Any, shape: Sequence[int], result: int) -> None:
        low, high = clip
        if (low, high) == (0, math.inf):
            self.emit("RELU", [x], result)
            return
        both = not (math.isinf(low) or math.isinf(high))
        if not math.isinf(low):
            after = self.between(shape) if both else result
            x = self.emit("MAXIMUM", [x, self.constant(low)], after, of="MaximumMinimumOptions")
        if not math.isinf(high):
            self.emit("MINIMUM", [x, self.constant(high)], result, of="MaximumMinimumOptions")

    def reshaped(self, x: int, shape: Sequence[int], result: int | None = None) -> int:
        result = self.between(shape) if result is None else result
        sizes = self.constant(shape, np.int32)
        return self.emit("RESHAPE", [x, sizes], result, of="ReshapeOptions", newShape=list(shape))

    def _dense(self, op: Op, given: list[int], result: int, fused: int) -> None:
        rows, k, n = op.rows()
        x, w = given[0], self.constant(op.inputs[1].T)
        if self.graph.shape(op.inputs[0]) != (rows, k):
            x = self.reshaped(x, (rows, k))
        flat = op.shape == (rows, n)
        made = result if flat else self.between((rows, n))
        self.emit("FULLY_CONNECTED", [x, w, given[2]], made, of="FullyConnectedOptions",
                  fusedActivationFunction=fused)  # fmt: skip
        if not flat:
            self.reshaped(made, op.shape, result)

    def images(self, op: Op, x: int, window: Sequence[int], fill: float) -> tuple[int, int]:
        """(operand, padding): the operand is padded itself unless LiteRT's rule gives the same."""
        shape, padding = self.graph.shape(op.inputs[0]), op.attrs["padding"]
        if not np.any(padding):
            return x, self.schema.Padding.VALID
        same = []
        dilation = op.attrs.get("dilation", (1, 1))
        for size, k, s, d in zip(shape[1:3], window, op.attrs["strides"], dilation, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            same.append((total // 2, total - total // 2))
        averages = op.kind == "pool" and op.attrs["how"] == "sum"
        if tuple(same) == tuple(padding) and not averages:
            return x, self.schema.Padding.SAME
        (top, bottom), (left, right) = padding
        around = self.constant([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        wider = (1, shape[1] + top + bottom, shape[2] + left + right, shape[3])
        given, kind = [x, around], "PAD"
        if fill:
            given, kind = [*given, self.constant(fill)], "PADV2"
        padded = self.emit(
            kind, given, self.between(wider), of=f"{kind.title().replace('v', 'V')}Options"
        )
        return padded, self.schema.Padding.VALID

    def _conv(self, op: Op, given: list[int], result: int, fused: int) -> None:
        kernel, groups = op.inputs[1], op.attrs["groups"]
        x, padding = self.images(op, given[0], kernel.shape[:2], 0.0)
        (sh, sw), (dh, dw) = op.attrs["strides"], op.attrs["dilation"]
        options = {
            "padding": padding,
            "strideH": sh,
            "strideW": sw,
            "dilationHFactor": dh,
            "dilationWFactor": dw,
            "fusedActivationFunction": fused,
        }
        if groups > 1 and kernel.shape[2] == 1:
            w = self.constant(kernel.transpose(2, 0, 1, 3))
            self.emit("DEPTHWISE_CONV_2D", [x, w, given[2]], result, of="DepthwiseConv2DOptions",
                      depthMultiplier=kernel.shape[3] // groups, **options)  # fmt: skip
        else:
            w = self.constant(kernel.transpose(3, 0, 1, 2))
            self.emit("CONV_2D", [x, w, given[2]], result, of="Conv2DOptions", **options)

    def _pool(self, op: Op, given: list[int], result: int, fused: int) -> None:
        largest, (h, w) = op.attrs["how"] == "max", op.attrs["window"]
        x, padding = self.images(op, given[0], (h, w), -math.inf if largest else 0.0)
        (sh, sw), factor = op.attrs["strides"], op.attrs["scale"] * h * w
        options = {"padding": padding, "strideH": sh, "strideW": sw, "filterHeight": h}
        plain = largest or math.isclose(factor, 1, rel_tol=1e-6)
        made = result if plain else self.between(op.shape)
        kind = "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D"
        self.emit(kind, [x], made, of="Pool2DOptions", filterWidth=w, **options)
        if not plain:
            self.emit("MUL", [made, self.constant(factor)], result, of="MulOptions")

    def _reduce(self, op: Op, given: list[int], result: int, fused: int) -> None:
        shape, scale = self.graph.shape(op.inputs[0]), op.attrs["scale"]
        axes = self.constant(op.attrs["axes"], np.int32)
        count = math.prod(shape[d] for d in op.attrs["axes"])
        how = _REDUCE[op.attrs["how"]]
        if how == "SUM" and math.isclose(scale * count, 1, rel_tol=1e-6):
            how, scale = "MEAN", 1.0
        made = result if scale == 1 else self.between(op.shape)
        self.emit(how, [*given, axes], made, of="ReducerOptions", keepDims=False)
        if scale != 1:
            self.emit("MUL", [made, self.constant(scale)], result, of="MulOptions")

    def _binary(self, op: Op, given: list[int], result: int, fused: int) -> None:
        name = _BINARY[op.attrs["how"]]
        if name in ("MAXIMUM", "MINIMUM", "POW"):
            made = self.between(op.shape) if fused else result
            of = "PowOptions" if name == "POW" else "MaximumMinimumOptions"
            self.emit(name, given, made, of=of)
            if fused:
                self.clipped(made, op.attrs["clip"], op.shape, result)
            return
        of = f"{name.title()}Options"
        self.emit(name, given, result, of=of, fusedActivationFunction=fused)

    def _unary(self, op: Op, given: list[int], result: int, fused: int) -> None:
        name = _UNARY[op.attrs["how"]]
        if name == "GELU":
            self.emit(name, given, result, of="GeluOptions", approximate=False)
        else:
            self.emit(name, given, result)

    def _clip(self, op: Op, given: list[int], result: int, fused: int) -> None:
        self.clipped(given[0], op.attrs["clip"], op.shape, result)

    def _matmul(self, op: Op, given: list[int], result: int, fused: int) -> None:
        self.emit("BATCH_MATMUL", given, result, of="BatchMatMulOptions")

    def _select(self, op: Op, given: list[int], result: int, fused: int) -> None:
        self.emit("SELECT_V2", given, result, of="SelectV2Options")

    def _lookup(self, op: Op, given: list[int], result: int, fused: int) -> None:
        self.emit("GATHER", given, result, of="GatherOptions", axis=0)

    def _take(self, op: Op, given: list[int], result: int, fused: int) -> None:
        at = self.constant(op.attrs["positions"], np.int32)
        self.emit("GATHER", [given[0], at], result, of="GatherOptions", axis=op.attrs["axis"])

    def _reshape(self, op: Op, given: list[int], result: int, fused: int) -> None:
        self.reshaped(given[0], op.shape, result)

    def _expand(self, op: Op, given: list[int], result: int, fused: int) -> None:
        sizes = self.constant(op.shape, np.int32)
        self.emit("BROADCAST_TO", [given[0], sizes], result, of="BroadcastToOptions")

    def _transpose(self, op: Op, given: list[int], result: int, fused: int) -> None:
        axes = self.constant(op.attrs["axes"], np.int32)
        self.emit("TRANSPOSE", [given[0], axes], result, of="TransposeOptions")
