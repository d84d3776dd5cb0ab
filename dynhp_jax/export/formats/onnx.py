"""ONNX by the `onnx` package, from the graph; any batch size. Images stay NHWC outside.

Convolutions and pools of ONNX take NCHW: a transposition stands before and after each, which
runtimes merge as they load the file.
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

OPSET, IR_VERSION = 17, 8  # what runtimes since 2022 read
_UNARY = {
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
}
_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
           "pow": "Pow"}  # fmt: skip
_KINDS = ("dense", "conv", "pool", "reduce", "binary", "unary", "clip", "matmul", "select",
          "lookup", "take", "reshape", "transpose", "expand")  # fmt: skip


class Onnx(Format):
    """For onnxruntime and what else reads ONNX."""

    name = "onnx"
    packages = ("onnx", "onnxruntime")

    def check_network(self, source: Source) -> None:
        check_kinds(source, self.name, _KINDS)

    def write(self, source: Source, folder: Path) -> list[Path]:
        import onnx

        path = folder / f"{source.name}.onnx"
        model = _Writer(source).model()
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())
        return [path]

    def open(self, files: Sequence[Path], source: Source) -> Any:
        return session(files[0], source)


def session(path: Path, source: Source, threads: int = 0) -> Callable:
    """A file in onnxruntime, as a function of whole inputs; threads: 0 for as many as there are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = list(source.graph.inputs)

    def call(inputs: Any) -> Any:
        leaves = map(np.asarray, jax.tree.leaves(inputs))
        found = running.run(None, dict(zip(names, leaves, strict=True)))
        return found[0] if len(found) == 1 else found

    return call


class _Writer:
    def __init__(self, source: Source):
        from onnx import helper, numpy_helper

        self.helper, self.as_tensor = helper, numpy_helper.from_array
        self.source, self.graph = source, source.graph
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> Any:
        helper = self.helper
        for op in self.graph.ops:
            self.op(op)
        inputs = [self.info(name, *known) for name, known in self.graph.inputs.items()]
        made = self.graph.made_by
        outputs = [self.info(n, self.graph.shape(n), made[n].dtype) for n in self.graph.outputs]
        graph = helper.make_graph(self.nodes, self.source.name, inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="dynhp_jax"
        )

    def info(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        kind = self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.helper.make_tensor_value_info(name, kind, ["batch", *shape[1:]])

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.as_tensor(np.ascontiguousarray(value, dtype), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attrs: Any) -> str:
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [output], **attrs))
        return output

    def sizes(self, op: Op) -> str:
        """A shape, with -1 for the axis of the examples."""
        shape = [-1 if d == op.batch else size for d, size in enumerate(op.shape)]
        return self.constant(shape, np.int64)

    def op(self, op: Op) -> None:
        given = [x if isinstance(x, str) else
                 "" if op.kind == "conv" and k == 1 else  # a kernel has another order
                 self.constant(x, bool if x.dtype == bool else np.float32)
                 for k, x in enumerate(op.inputs)]  # fmt: skip
        clip = op.attrs.get("clip") if op.kind != "clip" else None
        result = f"{op.name}_unclipped" if clip else op.name
        getattr(self, f"_{op.kind}")(op, given, result)
        if clip:
            self.clipped(result, clip, op.name)

    def clipped(self, x: str, clip: tuple[float, float], result: str) -> None:
        low, high = clip
        if low == 0 and math.isinf(high):
            self.node("Relu", [x], result)
            return
        bounds = ["" if math.isinf(bound) else self.constant(np.float32(bound)) for bound in clip]
        self.node("Clip", [x, *bounds], result)

    def _dense(self, op: Op, given: list[str], result: str) -> None:
        n = op.inputs[1].shape[1]
        if len(self.graph.shape(given[0])) == 2 and len(op.shape) == 2:
            self.node("Gemm", given, result)
            return
        x, w, b = given
        k = op.inputs[1].shape[0]
        shape = self.graph.shape(x)
        if shape[-1] != k:  # several axes are contracted
            count, rows = 0, math.prod(shape) // k
            while math.prod(shape[:count]) != rows:
                count += 1
            x = self.node("Reshape", [x, self.constant([-1, *shape[1:count], k], np.int64)])
            shape = (*shape[:count], k)
        flat = op.shape == (*shape[:-1], n)
        made = self.node("Add", [self.node("MatMul", [x, w]), b], result if flat else "")
        if not flat:
            self.node("Reshape", [made, self.sizes(op)], result)

    def _images(self, kind: str, op: Op, given: list[str], result: str, **attrs: Any) -> None:
        (top, bottom), (left, right) = op.attrs["padding"]
        x = self.node("Transpose", [given[0]], perm=[0, 3, 1, 2])
        pads = [top, left, bottom, right]
        strides = list(op.attrs["strides"])
        made = self.node(kind, [x, *given[1:]], strides=strides, pads=pads, **attrs)
        self.node("Transpose", [made], result, perm=[0, 2, 3, 1])

    def _conv(self, op: Op, given: list[str], result: str) -> None:
        w = self.constant(op.inputs[1].transpose(3, 2, 0, 1))
        dilations, groups = list(op.attrs["dilation"]), op.attrs["groups"]
        given = [given[0], w, given[2]]
        shape = list(op.inputs[1].shape[:2])
        self._images(
            "Conv", op, given, result, group=groups, dilations=dilations, kernel_shape=shape
        )

    def _pool(self, op: Op, given: list[str], result: str) -> None:
        window, area = list(op.attrs["window"]), math.prod(op.attrs["window"])
        if op.attrs["how"] == "max":
            self._images("MaxPool", op, given, result, kernel_shape=window)
            return
        made = f"{result}_mean"
        self._images("AveragePool", op, given, made, kernel_shape=window, count_include_pad=1)
        self.node("Mul", [made, self.constant(np.float32(op.attrs["scale"] * area))], result)

    def _reduce(self, op: Op, given: list[str], result: str) -> None:
        how, axes = op.attrs["how"], list(op.attrs["axes"])
        if how != "sum":
            self.node(f"Reduce{how.title()}", given, result, axes=axes, keepdims=0)
            return
        shape = self.graph.shape(given[0])
        if math.isclose(op.attrs["scale"] * math.prod(shape[d] for d in axes), 1, rel_tol=1e-6):
            self.node("ReduceMean", given, result, axes=axes, keepdims=0)
            return
        whole = op.attrs["scale"] == 1
        axes_given = self.constant(axes, np.int64)
        made = self.node("ReduceSum", [*given, axes_given], result if whole else "", keepdims=0)
        if not whole:
            self.node("Mul", [made, self.constant(np.float32(op.attrs["scale"]))], result)

    def _binary(self, op: Op, given: list[str], result: str) -> None:
        self.node(_BINARY[op.attrs["how"]], given, result)

    def _unary(self, op: Op, given: list[str], result: str) -> None:
        how, (x,) = op.attrs["how"], given
        if how == "square":
            self.node("Mul", [x, x], result)
        elif how == "rsqrt":
            self.node("Reciprocal", [self.node("Sqrt", [x])], result)
        elif how == "gelu":
            inner = self.node("Mul", [x, self.constant(np.float32(math.sqrt(0.5)))])
            one, half = (self.constant(np.float32(number)) for number in (1, 0.5))
            grown = self.node("Add", [one, self.node("Erf", [inner])])
            self.node("Mul", [self.node("Mul", [x, half]), grown], result)
        elif how == "erfc":
            one = self.constant(np.float32(1))
            self.node("Sub", [one, self.node("Erf", [x])], result)
        else:
            self.node(_UNARY[how], [x], result)

    def _clip(self, op: Op, given: list[str], result: str) -> None:
        self.clipped(given[0], op.attrs["clip"], result)

    def _matmul(self, op: Op, given: list[str], result: str) -> None:
        self.node("MatMul", given, result)

    def _select(self, op: Op, given: list[str], result: str) -> None:
        self.node("Where", given, result)

    def _lookup(self, op: Op, given: list[str], result: str) -> None:
        self.node("Gather", given, result, axis=0)

    def _take(self, op: Op, given: list[str], result: str) -> None:
        at = self.constant(op.attrs["positions"], np.int64)
        self.node("Gather", [given[0], at], result, axis=op.attrs["axis"])

    def _reshape(self, op: Op, given: list[str], result: str) -> None:
        self.node("Reshape", [given[0], self.sizes(op)], result)

    def _expand(self, op: Op, given: list[str], result: str) -> None:
        shape = [1 if d == op.batch else size for d, size in enumerate(op.shape)]
        self.node("Expand", [given[0], self.constant(shape, np.int64)], result)

    def _transpose(self, op: Op, given: list[str], result: str) -> None:
        self.node("Transpose", given, result, perm=list(op.attrs["axes"]))
