"""Squared norms of per-example gradients from the ordinary backward pass, for any model.

A probe is a vector with one zero per example that every use of a parameter also takes. Its forward
value changes nothing; the backward rule of each use adds to its derivative the squared norm of the
example's share of that parameter's gradient. What the share's norm is depends on how the parameter
meets the data:

- matrix product, `a W`: ||a||^2 ||d||^2 (of `a (c W)`, with c one factor per row for all examples:
  ||c a||^2 ||d||^2); with several places per example (tokens), the Gram form
  sum_tt' (a_t . a_t') (d_t . d_t') or the product itself, whichever is smaller. Squaring before the
  sum over places would drop the cross terms.
- convolution: the same on patches.
- bias, scale: the norm of the cotangent summed over places.
- embedding: the Gram form over places that look up the same row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.batch_size import independence
from dynhp_jax.batch_size.batch_axis import BatchAxis
from dynhp_jax.batch_size.contraction_axes import ProductAxes
from dynhp_jax.batch_size.example_norms import (
    broadcast_with_norms,
    convolution_norms,
    look_up_norms,
)
from dynhp_jax.batch_size.parameter_uses import Place, Uses, differentiable, place
from dynhp_jax.common.precision import wide, wide_type
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.products import Kept, Part, for_probe
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.trace import Traced, varying
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Value


def probed(apply: Callable, prefix: str = "params") -> Callable:
    """Makes the backward pass also give the squared norms of the per-example gradients.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, every example by itself.
      prefix: path of the subtree of the variables that is trained ('' for all).

    Returns:
      `f(variables, probe, *inputs) -> outputs`, with the outputs of `apply`. `probe` is f32[batch]
      of zeros; it changes nothing. Of a loss that is the mean over the batch of per-example losses,
      the derivative with respect to `probe[i]` is ||g_i||^2 / batch^2, summed over all parameters
      (`of_probe` turns it into ||S||_1).

    Raises (when called):
      ValueError: if no leaf is below `prefix`; if `probe` is no f32[batch] (or f64), or is one for
        all devices of a `shard_map` over the examples; if examples are mixed; if a trained leaf
        meets the data in a way for which there is no closed form, or more than once, or reaches an
        output without the examples (returned as it is, or as a penalty). It names the leaf and the
        estimator to use instead. Only axis 0 of the first input, and what is combined with it
        position by position, is known to be the examples.
    """

    def hook(call: Call, probe: Any) -> _Probe:
        traced = call.traced
        _check_probe(traced, probe)
        _check_varies(probe, call.inputs)
        made = _Probe(traced, _trained(traced, call.variables, prefix), probe)
        independence.check(traced.analysis, made.batch.on)
        return made

    return transformed(apply, 1, hook)


def _check_probe(traced: Traced, probe: Any) -> None:
    if traced.batch is None:
        raise ValueError("the inputs have no batch axis; give at least one array with an axis")
    shape, dtype = jnp.shape(probe), jnp.result_type(probe)
    if shape != traced.batch.shape or wide_type(dtype) != dtype or not differentiable(dtype):
        raise ValueError(
            f"the probe is {dtype}{list(shape)}; give float32 zeros of shape "
            f"{list(traced.batch.shape)}, one for each example of the first input"
        )


def _check_varies(probe: Any, inputs: Any) -> None:
    """Inside shard_map, one probe for all devices would get the sum of their norms."""
    examples = next(leaf for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf))
    lacking = tuple(sorted(varying(examples) - varying(probe)))
    if lacking:
        raise ValueError(
            f"inside shard_map the examples differ along {lacking}, and the probe does not; give "
            f"jax.lax.pcast(probe, {lacking}, to='varying'), or shard it as the examples"
        )


def _trained(traced: Traced, variables: Any, prefix: str) -> frozenset[Path]:
    """The leaves of the variables below a prefix that have gradients."""
    start = prefix + "/" if prefix else ""
    leaves = list(traced.leaves)[: len(jax.tree.leaves(variables))]  # those of inputs come after
    below = [path for path in leaves if f"{path}/".startswith(start)]
    if prefix and not below:
        there = ", ".join(sorted({repr(path.split("/")[0]) for path in leaves}))
        raise ValueError(
            f"no leaf is below prefix {prefix!r}, so nothing is trained; there is {there}; pass "
            "one of these, or prefix='' if all leaves are trained"
        )
    return frozenset(path for path in below if differentiable(traced.dtypes[path]))


class _Probe(Hook):
    def __init__(self, traced: Traced, trained: frozenset[Path], probe: Any):
        self.probe, self.batch = probe, BatchAxis(traced)
        self.uses = Uses(traced, trained, self.batch.on)
        self.met: set[tuple[Path, Place]] = set()
        # Variables of the jaxpr that are a leaf times a factor: (the leaf, the factor).
        self.scaled: dict[Any, tuple[Path, Any]] = {}

    def finish(self, outputs: Any) -> Any:
        self.uses.check(self.met)
        return outputs

    def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
        if not self._looks_at(values, args) or not any(map(self._with_examples, values)):
            return []
        form = {"dot_general": self._dot_general, "conv_general_dilated": self._conv}
        found = form[eqn.primitive.name](eqn, values, args) if eqn.primitive.name in form else None
        return [] if found is None else [found]

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        name = eqn.primitive.name
        if not self._looks_at(values, args):
            return run(*args)
        if name == "mul":
            self._note_scaled(eqn, values, args)
        if not any(self._with_examples(v) for v in values):
            form = self._broadcast if name == "broadcast_in_dim" else None
        else:
            of_elements = dict.fromkeys(ELEMENTWISE, self._elementwise)
            form = {"gather": self._gather, **of_elements}.get(name)
        result = form(eqn, values, args, run) if form else None
        return run(*args) if result is None else result

    def _looks_at(self, values: list[Value], args: list[Any]) -> bool:
        """Whether an equation takes trained leaves, none of them complex."""
        carried = [arg for v, arg in zip(values, args, strict=True) if self.uses.carried(v)]
        return bool(carried) and not any(jnp.iscomplexobj(arg) for arg in carried)

    def _note_scaled(self, eqn: Any, values: list[Value], args: list[Any]) -> None:
        """Notes a leaf times what all examples share (gates on the rows of a kernel)."""
        self.scaled.pop(eqn.outvars[0], None)  # calls of one function share their variables
        for k, value in enumerate(values):
            factor = values[1 - k]
            path = self._leaf(value)
            shared = not self.uses.carried(factor) and self.batch.of(factor) is None
            if path is not None and shared and jnp.ndim(args[k]) == jnp.ndim(args[1 - k]):
                self.scaled[eqn.outvars[0]] = (path, args[1 - k])

    # -- operands ---------------------------------------------------------------------------------

    def _with_examples(self, value: Value) -> bool:
        return not self.uses.carried(value) and self.batch.of(value) is not None

    def _leaf(self, value: Value) -> Path | None:
        """The leaf that a value is, or is a part of, up to its shape or type."""
        carried = self.uses.carried(value)
        if not value.distinct or len(carried) != 1:
            return None
        (path,) = carried
        return path

    def _meet(self, path: Path, eqn: Any, values: list[Value]) -> None:
        self.met.add((path, place(eqn, values)))

    # -- forms ------------------------------------------------------------------------------------

    def _dot_general(self, eqn: Any, values: list[Value], args: list[Any]) -> Part | None:
        scaled = [k for k in (0, 1) if eqn.invars[k] in self.scaled]
        side = scaled[0] if scaled else 1 if self.uses.carried(values[1]) else 0
        path, factor = self.scaled[eqn.invars[side]] if scaled else (self._leaf(values[side]), None)
        data = 1 - side
        ranks = len(values[0].axes), len(values[1].axes)
        axes = ProductAxes.of(eqn.params["dimension_numbers"], ranks, data)
        if factor is not None:
            factor = axes.factor(factor)
            if factor is None:
                return None
        b = self.batch.of(values[data])
        if path is None or b not in axes.data.free or not self.batch.leads(values[data].axes[b]):
            return None
        self._meet(path, eqn, values)

        def norms(array: Any, cotangent: Any, factor: Any) -> Any:
            array = array if factor is None else wide(array) * factor
            return axes.norms(array, cotangent, b, self.probe.shape[0])

        def back(kept: Kept, cotangent: Any, given: tuple) -> tuple:
            probe, factor = given
            return for_probe(probe, norms, kept.array, cotangent, factor), None

        return Part(data, (self.probe, factor), back=back)

    def _conv(self, eqn: Any, values: list[Value], args: list[Any]) -> Part | None:
        path, p = self._leaf(values[1]), eqn.params
        numbers = p["dimension_numbers"]
        if path is None or p["batch_group_count"] != 1:
            return None
        b = numbers.lhs_spec[0]
        if self.batch.of(values[0]) != b or not self.batch.alone(values[0].axes[b]):
            return None
        self._meet(path, eqn, values)
        kernel = tuple(args[1].shape[d] for d in numbers.rhs_spec[2:])

        def norms(image: Any, cotangent: Any, groups: int) -> Any:
            image = jnp.transpose(image, numbers.lhs_spec)  # [batch, in, *space]
            cotangent = jnp.transpose(cotangent, numbers.out_spec)  # [batch, out, *space]
            params = {**p, "feature_group_count": groups}
            return convolution_norms(image, cotangent, kernel, params)

        def back(kept: Kept, cotangent: Any, probe: Any) -> Any:
            groups = kept.groups or p["feature_group_count"]
            of_groups = functools.partial(norms, groups=groups)
            return for_probe(probe, of_groups, kept.array, kept.cotangent(cotangent))

        return Part(0, self.probe, back=back)

    def _gather(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        path, numbers = self._leaf(values[0]), eqn.params["dimension_numbers"]
        rows = numbers.collapsed_slice_dims
        plain = (
            path is not None
            and len(rows) == 1
            and numbers.start_index_map == rows
            and not numbers.operand_batching_dims
            and self.batch.of(values[1]) == 0
            and self.batch.leads(values[1].axes[0])
        )
        if not plain:
            return None
        self._meet(path, eqn, values)
        places = tuple(
            d for d in range(len(eqn.outvars[0].aval.shape)) if d not in numbers.offset_dims
        )
        examples = self.probe.shape[0]
        indices = args[1]

        @jax.custom_vjp
        def look_up(table: Any, probe: Any) -> Any:
            return run(table, indices)[0]

        def forward(table: Any, probe: Any) -> tuple:
            return look_up(table, probe), table

        def backward(table: Any, cotangent: Any) -> tuple:
            (change,) = jax.linear_transpose(lambda t: run(t, indices)[0], table)(cotangent)
            return change, for_probe(self.probe, norms, indices, cotangent)

        def norms(indices: Any, cotangent: Any) -> Any:
            d = jnp.transpose(cotangent, (*places, *numbers.offset_dims))
            d = d.reshape(examples, -1, math.prod(d.shape[len(places) :]))
            return look_up_norms(indices.reshape(examples, -1), d)

        look_up.defvjp(forward, backward)
        return [look_up(args[0], self.probe)]

    def _elementwise(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        data = next(v for v in values if self._with_examples(v))
        return self._expanded(eqn, values, args, data, run)

    def _broadcast(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        """A leaf that gets its batch axis by itself, before it meets the data."""
        result, dims = self.uses.result(eqn, values), eqn.params["broadcast_dimensions"]
        if result is None or self.batch.of(result) in dims:
            return None
        return self._expanded(eqn, values, args, result, lambda x: [x], dims)

    def _expanded(
        self,
        eqn: Any,
        values: list[Value],
        args: list[Any],
        examples: Value,
        run: Callable,
        dims: tuple[int, ...] | None = None,
    ) -> Any:
        """`run` on leaves that are broadcast first, to the axes of a value that has examples."""
        shape, b = eqn.outvars[0].aval.shape, self.batch.of(examples)
        if not self.batch.leads(examples.axes[b]):
            return None
        changed, met = list(args), []
        for k, value in enumerate(values):
            if not self.uses.carried(value):
                continue
            path, rank = self._leaf(value), jnp.ndim(args[k])
            at = tuple(range(len(shape) - rank, len(shape))) if dims is None else dims
            varies = b in at and args[k].shape[at.index(b)] != 1
            if path is None or varies:
                return None
            met.append(path)
            changed[k] = broadcast_with_norms(args[k], self.probe, tuple(shape), at, b)
        for path in met:
            self._meet(path, eqn, values)
        return run(*changed)
