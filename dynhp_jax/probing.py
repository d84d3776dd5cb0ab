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

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from dynhp_jax import mixing
from dynhp_jax.example_norms import broadcast_with_norms, in_chunks, outer_product_norms
from dynhp_jax.jaxprs.elementwise import ELEMENTWISE
from dynhp_jax.jaxprs.evaluate import Hook, Run
from dynhp_jax.jaxprs.labels import Axis
from dynhp_jax.jaxprs.trace import Traced, below, trace
from dynhp_jax.jaxprs.walk import Analysis, Value


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
      ValueError: if a parameter meets the data in a way for which there is no closed form, or more
        than once, or if examples are mixed; it names the leaf and the estimator to use instead.
    """

    def with_probe(variables: Any, probe: Any, *inputs: Any) -> Any:
        traced = trace(apply, variables, inputs)
        hook = _Probe(traced, probe)
        mixing.check(traced.analysis, hook.batched)
        out = Run(traced.walk, hook=hook)(traced.analysis, jax.tree.leaves((variables, inputs)))
        trained = below(prefix)
        operands = {id(atom) for eqn in traced.analysis.jaxpr.eqns for atom in eqn.invars}
        for path, var in zip(traced.leaves, traced.analysis.jaxpr.invars, strict=True):
            if not trained(path):
                continue
            if hook.met.get(path, 0) > 1:
                _refuse(path, "is used more than once, so its gradients have cross terms")
            if path not in hook.met and path in hook.seen:
                _refuse(path, f"meets the data in '{hook.seen[path]}', which has no closed form")
            if path not in hook.met and id(var) in operands:
                _refuse(path, "is changed before it meets the data (carried by a loop?)")
        return jax.tree.unflatten(traced.out_tree, out)

    return with_probe


def _refuse(path: str, why: str) -> None:
    raise ValueError(
        f"leaf {path!r} {why}; use variance='vmap' (per_example), or variance='micro' "
        "(of_micro_batches) where examples are mixed"
    )


class _Probe(Hook):
    def __init__(self, traced: Traced, probe: Any):
        self.traced, self.probe = traced, probe
        self.batch = set(traced.labels.find(traced.batch).tolist())
        self.met: dict[str, int] = {}
        self.seen: dict[str, str] = {}
        # Variables of the jaxpr that are a leaf times a factor: (the leaf, the factor).
        self.scaled: dict[Any, tuple[str, Any]] = {}

    def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        name = eqn.primitive.name
        if name == "mul" and self._scales(eqn, values, args):
            return run(*args)
        scaled = [self.scaled[a] for a in self._variables(eqn) if a in self.scaled]
        if scaled and name != "dot_general":
            for path, _ in scaled:
                self.seen[path] = name
        leaves = [v.sources for v in values if v.sources] or [{path} for path, _ in scaled]
        if not leaves:
            return run(*args)
        if not any(self._with_examples(v) for v in values):
            return (
                self._broadcast(eqn, values, args, run)
                if name == "broadcast_in_dim"
                else run(*args)
            )
        form = {
            "dot_general": self._dot_general,
            "conv_general_dilated": self._conv,
            "gather": self._gather,
            **dict.fromkeys(ELEMENTWISE, self._elementwise),
        }.get(name)
        result = form(eqn, values, args, run) if form else None
        if result is None:
            for path in frozenset().union(*leaves):
                self.seen[path] = name
            return run(*args)
        return result

    def around(self, body: Analysis, values: list[Value], args: list[Any]) -> list[Any]:
        if any(self._with_examples(value) for value in values):
            for path in frozenset().union(*(value.sources for value in values)):
                self.seen[path] = "a function with a derivative of its own"
        return args

    def _scales(self, eqn: Any, values: list[Value], args: list[Any]) -> bool:
        """Notes a leaf times what all examples share (gates on the rows of a kernel)."""
        for k, value in enumerate(values):
            factor = values[1 - k]
            path = self._leaf(value)
            shared = not factor.sources and self._batch_axis(factor) is None
            if path is not None and shared and jnp.ndim(args[k]) == jnp.ndim(args[1 - k]):
                self.scaled[eqn.outvars[0]] = (path, args[1 - k])
                return True
        return False

    @staticmethod
    def _variables(eqn: Any) -> list[Any]:
        return [atom for atom in eqn.invars if not isinstance(atom, jex.Literal)]

    # -- where the batch axis is ------------------------------------------------------------------

    def _batch_digits(self, axis: Axis) -> list[bool]:
        labels = self.traced.labels
        found = []
        for digit in labels.resolve(axis):
            atoms = labels.pairs(digit)[1]
            found.append(bool(atoms.size) and int(atoms[0]) in self.batch)
        return found

    def batched(self, axis: Axis) -> bool:
        """Whether positions of an axis are examples, or parts of one."""
        return any(self._batch_digits(axis))

    def _batch_axis(self, value: Value) -> int | None:
        return next((d for d, axis in enumerate(value.axes) if self.batched(axis)), None)

    def _with_examples(self, value: Value) -> bool:
        return not value.sources and self._batch_axis(value) is not None

    def _result(self, eqn: Any) -> Value | None:
        return _find(self.traced.analysis, eqn.outvars[0])

    def _leaf(self, value: Value) -> str | None:
        if not value.linear or len(value.sources) != 1:
            return None
        (path,) = value.sources
        return path

    def _meet(self, path: str) -> None:
        self.met[path] = self.met.get(path, 0) + 1

    # -- forms ------------------------------------------------------------------------------------

    def _dot_general(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        scaled = [k for k in (0, 1) if eqn.invars[k] in self.scaled]
        side = scaled[0] if scaled else 1 if values[1].sources else 0
        path, factor = self.scaled[eqn.invars[side]] if scaled else (self._leaf(values[side]), None)
        (contracted, batched) = eqn.params["dimension_numbers"]
        data = 1 - side
        if factor is not None:
            there = (*batched[side], *contracted[side])
            here = (*batched[data], *contracted[data])
            factor = _along(factor, there, here, len(values[data].axes))
            if factor is None:
                return None
        b = self._batch_axis(values[data])
        digits = self._batch_digits(values[data].axes[b])
        if path is None or b in contracted[data] or b in batched[data] or not digits[0]:
            return None
        self._meet(path)
        rank = values[data].axes
        shared, summed = tuple(batched[data]), tuple(contracted[data])
        free = tuple(d for d in range(len(rank)) if d not in (*shared, *summed))
        # Axes of the result: shared, free of the left side, free of the right side.
        other = len(values[side].axes) - len(shared) - len(summed)
        start = len(shared) + (other if data == 1 else 0)
        result_free = tuple(range(start, start + len(free)))
        result_made = tuple(
            d
            for d in range(len(shared) + len(free) + other)
            if d >= len(shared) and d not in result_free
        )
        examples = self.probe.shape[0]

        def blocks(array: Any, where: int, g: tuple, t: tuple, k: tuple) -> Any:
            """[examples, shared, places, features] of an array whose axis `where` is the batch."""
            rest = tuple(d for d in t if d != where)
            sizes = [math.prod(array.shape[d] for d in axes) for axes in (g, k)]
            moved = jnp.transpose(array, (where, *rest, *g, *k))
            moved = moved.reshape(examples, -1, *sizes)
            return jnp.swapaxes(moved, 1, 2)

        def norms(array: Any, cotangent: Any, factor: Any) -> Any:
            array = array if factor is None else array * factor
            a = blocks(array, b, shared, free, summed)
            d = blocks(
                cotangent,
                result_free[free.index(b)],
                tuple(range(len(shared))),
                result_free,
                result_made,
            )
            return outer_product_norms(a, d)

        return [self._with_norms(run, args, data, norms, factor)]

    def _conv(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        path, p = self._leaf(values[1]), eqn.params
        numbers, groups = p["dimension_numbers"], p["feature_group_count"]
        if path is None or not values[1].sources or p["batch_group_count"] != 1:
            return None
        if self._batch_axis(values[0]) != numbers.lhs_spec[0]:
            return None
        digits = self._batch_digits(values[0].axes[numbers.lhs_spec[0]])
        if digits != [True]:
            return None
        self._meet(path)
        kernel = tuple(args[1].shape[d] for d in numbers.rhs_spec[2:])

        def norms(image: Any, cotangent: Any, _: None) -> Any:
            image = jnp.transpose(image, numbers.lhs_spec)  # [batch, in, *space]
            cotangent = jnp.transpose(cotangent, numbers.out_spec)  # [batch, out, *space]

            def one(pair: tuple) -> Any:
                x, d = pair
                patches = lax.conv_general_dilated_patches(
                    x[None],
                    kernel,
                    p["window_strides"],
                    p["padding"],
                    lhs_dilation=p["lhs_dilation"],
                    rhs_dilation=p["rhs_dilation"],
                )[0]  # [in * kernel, *space], features grouped by channel
                a = patches.reshape(groups, -1, math.prod(patches.shape[1:]))
                d = d.reshape(groups, -1, math.prod(d.shape[1:]))
                return outer_product_norms(
                    jnp.swapaxes(a, 1, 2)[None], jnp.swapaxes(d, 1, 2)[None]
                )[0]

            entries = math.prod(cotangent.shape[2:]) * image.shape[1] * math.prod(kernel)
            return in_chunks(one, (image, cotangent), entries * image.dtype.itemsize)

        return [self._with_norms(run, args, 0, norms)]

    def _gather(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        path, numbers = self._leaf(values[0]), eqn.params["dimension_numbers"]
        rows = numbers.collapsed_slice_dims
        plain = (
            path is not None
            and len(rows) == 1
            and numbers.start_index_map == rows
            and not numbers.operand_batching_dims
            and self._batch_axis(values[1]) == 0
            and self._batch_digits(values[1].axes[0])[0]
        )
        if not plain:
            return None
        self._meet(path)
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
            d = jnp.transpose(cotangent, (*places, *numbers.offset_dims))
            d = d.reshape(examples, -1, math.prod(d.shape[len(places) :]))
            at = indices.reshape(examples, -1)
            same = (at[:, :, None] == at[:, None, :]).astype(d.dtype)
            gram = jnp.einsum("bsk,btk->bst", d, d)
            return change, jnp.sum(gram * same, (1, 2)).astype(self.probe.dtype)

        look_up.defvjp(forward, backward)
        return [look_up(args[0], self.probe)]

    def _elementwise(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        shape = eqn.outvars[0].aval.shape
        data = next(v for v in values if self._with_examples(v))
        return self._expanded(values, args, shape, self._batch_axis(data), run)

    def _broadcast(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
        """A leaf that gets its batch axis by itself, before it meets the data."""
        result = self._result(eqn)
        b = None if result is None else self._batch_axis(result)
        dims = eqn.params["broadcast_dimensions"]
        if b is None or b in dims:
            return run(*args)
        shape = eqn.params["shape"]
        return self._expanded(values, args, shape, b, lambda x: [x], dims)

    def _expanded(
        self,
        values: list[Value],
        args: list[Any],
        shape: tuple[int, ...],
        b: int,
        run: Callable,
        dims: tuple[int, ...] | None = None,
    ) -> Any:
        changed = list(args)
        for k, value in enumerate(values):
            if not value.sources:
                continue
            path, rank = self._leaf(value), jnp.ndim(args[k])
            at = tuple(range(len(shape) - rank, len(shape))) if dims is None else dims
            varies = b in at and args[k].shape[at.index(b)] != 1
            if path is None or varies:
                return None
            self._meet(path)
            changed[k] = broadcast_with_norms(args[k], self.probe, tuple(shape), at, b)
        return run(*changed)

    def _with_norms(
        self, run: Callable, args: list[Any], data: int, norms: Callable, factor: Any = None
    ) -> Any:
        """The equation, whose backward pass also adds `norms(data, cotangent, factor)` to probe."""

        @jax.custom_vjp
        def product(left: Any, right: Any, probe: Any, factor: Any) -> Any:
            return run(left, right)[0]

        def forward(left: Any, right: Any, probe: Any, factor: Any) -> tuple:
            return run(left, right)[0], (left, right, factor)

        def backward(saved: tuple, cotangent: Any) -> tuple:
            left, right, factor = saved
            changes = [
                jax.linear_transpose(lambda x: run(x, right)[0], left)(cotangent)[0],
                jax.linear_transpose(lambda y: run(left, y)[0], right)(cotangent)[0],
            ]
            squares = norms(saved[data], cotangent, factor).astype(self.probe.dtype)
            return (*changes, squares, None)  # the factor's gradient comes by way of the leaf

        product.defvjp(forward, backward)
        return product(args[0], args[1], self.probe, factor)


def _along(factor: Any, axes: tuple[int, ...], others: tuple[int, ...], rank: int) -> Any:
    """A factor of one operand's `axes` as one that the other's `others` take; None if it varies.

    Args:
      factor: of the first operand's rank, of size one where it is the same all along an axis.
      axes: those over which the operands are multiplied, in the first.
      others: the same axes in the second operand.
      rank: of the second operand.
    """
    if any(size != 1 for d, size in enumerate(factor.shape) if d not in axes):
        return None
    shape = [1] * rank
    for d, other in zip(axes, others, strict=True):
        shape[other] = factor.shape[d]
    order = [d for _, d in sorted(zip(others, axes, strict=True))]
    free = [d for d in range(factor.ndim) if d not in axes]
    return jnp.transpose(factor, (*order, *free)).reshape(shape)


def _find(analysis: Analysis, var: Any) -> Value | None:
    """The value of a variable of a jaxpr or of a jaxpr inside it."""
    if var in analysis.values:
        return analysis.values[var]
    for bodies in analysis.inner.values():
        for body in bodies:
            found = _find(body, var)
            if found is not None:
                return found
    return None
