"""Output channels of kernels: their costs, their results, and training some of them alone.

An output channel reads the whole input of its layer, so that training few of them saves gradients
and states of the optimizer, but no stored input (`selected` is for that).

>>> import jax, jax.numpy as jnp
>>> from dynhp_jax.finetune.rows import Rows
>>> params, x = {"w": jnp.ones((4, 3))}, jnp.ones((2, 4))
>>> apply = lambda params, x: x @ params["w"]
>>> layout = output_costs(apply, params, x)["w"].layout
>>> rows = {"w": Rows(jnp.asarray([2]), layout)}
>>> chosen = outputs_trained(apply)
>>> gradient = jax.grad(lambda probes: chosen(params, rows, probes, x).sum())
>>> gradient({"w": jnp.zeros((4, 1))})["w"].ravel().tolist()
[2.0, 2.0, 2.0, 2.0]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.kernel_products import KernelReads, Read, place
from dynhp_jax.finetune.low_rank import KernelAxes, axes_of
from dynhp_jax.finetune.product import DENSE
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.finetune.rows import Rows, leaves_by_path, replaced
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.jaxprs.values import Value


def output_costs(apply: Callable, variables: Any, *inputs: Any) -> dict[Path, Cost]:
    """The costs of every kernel's output channels, as rows: weights alone.

    Left out are kernels that are read in loops or more than once, or whose output channels lie in
    another order than they are made in.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      variables, *inputs: pytrees of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      path -> `Cost`, whose `layout` numbers the output channels and whose `weight` is the numbers
      of the kernel that make one (of a grouped convolution those of its group alone).
    """
    reads, found = KernelReads(trace(apply, variables, inputs)), {}
    for path, (read, *others) in reads.usable().items():
        axes = axes_of(read)
        digits = [digit for axis in axes.free for digit in axes.digits[axis]]
        ordered = digits == sorted(digits, key=lambda digit: -digit.stride)
        if others or read.loop or axes.shared or not ordered:
            continue
        count, numbers = math.prod(digit.size for digit in digits), math.prod(axes.leaf)
        layout = RowLayout(axes.leaf, tuple(digits))
        made = math.prod(read.eqn.outvars[0].aval.shape)
        found[path] = Cost(read.product.kind, count, numbers // count, 0, 0, made, count, layout)
    return found


def outputs_trained(apply: Callable) -> Callable:
    """`f(variables, rows, probes, *inputs)`: some parts of some leaves have a gradient alone.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.

    Returns:
      A function with the outputs of `apply`; the gradient with respect to a probe is that of the
      rows of its leaf, which may be any leaf with any `RowLayout`. While it is computed the leaf's
      whole gradient is there.
    """

    def f(variables: Any, rows: Mapping[Path, Rows], probes: Mapping[Path, Any], *rest: Any) -> Any:
        leaves = leaves_by_path(variables)
        attached = {
            path: _attached(each.layout, leaves[path], probes[path], each.index)
            for path, each in rows.items()
        }
        return apply(replaced(variables, attached), *rest)

    return f


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attached(layout: RowLayout, leaf: Any, probe: Any, index: Any) -> Any:
    return leaf


def _forward(layout: RowLayout, leaf: Any, probe: Any, index: Any) -> tuple:
    return leaf, index


def _backward(layout: RowLayout, index: Any, cotangent: Any) -> tuple:
    return jnp.zeros_like(cotangent), layout.taken(cotangent, index), None


_attached.defvjp(_forward, _backward)


def results(
    apply: Callable, variables: Any, inputs: Any, paths: Collection[Path], examples: int
) -> dict[Path, Any]:
    """path -> f[examples, places, channels]: what the products with some kernels give.

    Args:
      apply: `apply(variables, inputs) -> outputs`.
      variables, inputs: pytrees of arrays.
      paths: kernels that have `output_costs`.
      examples: how many the inputs are of.
    """
    traced = trace(apply, variables, (inputs,))
    reads, found = KernelReads(traced), {}

    class Results(Hook):
        def bind(self, eqn: Any, values: list[Value], args: list[Any], run: Callable) -> Any:
            made = run(*args)
            read = reads.by_place.get(place(eqn, values))
            if read is not None and read.path in paths:
                found[read.path] = _by_example(read, axes_of(read), made[0], examples)
            return made

    Run(traced.walk, hook=Results())(traced.analysis, jax.tree.leaves((variables, inputs)))
    return found


def _by_example(read: Read, axes: KernelAxes, array: Any, examples: int) -> Any:
    if read.product.kind != DENSE:
        numbers = read.eqn.params["dimension_numbers"].out_spec
        array = jnp.moveaxis(array, (numbers[0], numbers[1]), (0, -1))
    elif read.product.side == 0:  # the kernel's axes come first
        count = len(axes.free)
        array = jnp.moveaxis(array, range(count), range(array.ndim - count, array.ndim))
    channels = math.prod(axes.shape[axis] for axis in axes.free)
    return array.reshape(examples, -1, channels)
