"""Backward passes of products of data and a kernel, put together from what transforms ask for.

A transform may want less of the data to be kept for the backward pass (`narrow`, `pack`), and may
want something of its own from it (`back`): norms of examples, the gradient of some rows. Several of
them share one product, so that each sees what the others leave: norms are those of the rows that
are kept, and what is kept of these is compressed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dynhp_jax.jaxprs.shardings import split_as
from dynhp_jax.jaxprs.trace import typed_as


@dataclasses.dataclass
class Kept:
    """What a backward pass knows of the data of a product.

    Attributes:
      array: the data, or of its channels those that are kept, perhaps approximately.
      groups: of a convolution with so many channels; None if it is the equation's number.
      cotangent: what of a cotangent goes with these channels.
      gradient: (function, cotangent, by_channel) -> `function(array, cotangent)` of a function that
        is linear in both, and with `by_channel` has the array's channels on the first axis of its
        result; a compressed array need not be expanded for it.
    """

    array: Any
    groups: int | None = None
    cotangent: Callable[[Any], Any] = lambda cotangent: cotangent
    gradient: Callable[[Callable, Any, bool], Any] | None = None

    def contracted(self, function: Callable, cotangent: Any, by_channel: bool = True) -> Any:
        """`function(array, cotangent)`."""
        if self.gradient is None:
            return function(self.array, cotangent)
        return self.gradient(function, cotangent, by_channel)


@dataclasses.dataclass(frozen=True)
class Part:
    """What one transform asks of a product's backward pass.

    Attributes:
      data: which operand is the data.
      given: pytree of arrays that the functions below take as their last argument.
      prepare: (what the others narrow the data to, without derivatives) -> `given`, instead of it.
      narrow: (data, given) -> of the data what has to be kept.
      narrowed: (kept, given) -> the same with `groups` and `cotangent` of what `narrow` left.
      pack: (array, given) -> pytree of arrays, kept instead of the array.
      unpack: (that, given) -> what the backward pass knows of the array.
      back: (kept, cotangent, given) -> cotangents of `given`, None where there is none.
      kernel: (kept, cotangent) -> gradient of the kernel, where what is kept is not the data.
      frozen: whether the kernel itself gets no gradient.
    """

    data: int
    given: Any = ()
    prepare: Callable | None = None
    narrow: Callable | None = None
    narrowed: Callable | None = None
    pack: Callable | None = None
    unpack: Callable | None = None
    back: Callable | None = None
    kernel: Callable | None = None
    frozen: bool = False


def product_with_parts(run: Callable, args: Sequence[Any], parts: Sequence[Part]) -> list[Any]:
    """The results of a product, with a backward pass of several parts.

    Args:
      run: `run(left, right) -> [result]`, linear in each.
      args: left and right.
      parts: at least one; at most one of them packs, after the others have narrowed.
    """
    data = parts[0].data
    frozen = any(part.frozen for part in parts)
    of_kernel = next((part.kernel for part in parts if part.kernel), None)
    whole = jax.typeof(args[data])

    def in_order(array: Any, kernel: Any) -> tuple[Any, Any]:
        return (array, kernel) if data == 0 else (kernel, array)

    @jax.custom_vjp
    def product(array: Any, kernel: Any, given: tuple) -> Any:
        return run(*in_order(array, kernel))[0]

    def forward(array: Any, kernel: Any, given: tuple) -> tuple:
        result, kept = product(array, kernel, given), array
        for part, each in zip(parts, given, strict=True):
            kept = part.narrow(kept, each) if part.narrow else kept
        for part, each in zip(parts, given, strict=True):
            kept = part.pack(kept, each) if part.pack else kept
        return result, (kept, kernel, given)

    def backward(saved: tuple, cotangent: Any) -> tuple:
        packed, kernel, given = saved
        kept = None
        for part, each in zip(parts, given, strict=True):
            kept = part.unpack(packed, each) if part.unpack else kept
        kept = kept or Kept(packed)
        for part, each in zip(parts, given, strict=True):
            kept = part.narrowed(kept, each) if part.narrowed else kept
        aval = typed_as(jax.ShapeDtypeStruct(whole.shape, whole.dtype), whole)
        (change,) = jax.linear_transpose(lambda x: run(*in_order(x, kernel))[0], aval)(cotangent)
        if frozen:
            of_rows = jax.numpy.zeros_like(kernel)
        elif of_kernel is not None:
            of_rows = of_kernel(kept, cotangent)
        else:
            (of_rows,) = jax.linear_transpose(lambda y: run(*in_order(kept.array, y))[0], kernel)(
                cotangent
            )
        own = [
            part.back(kept, cotangent, each) if part.back else jax.tree.map(lambda _: None, each)
            for part, each in zip(parts, given, strict=True)
        ]
        return change, of_rows, tuple(own)

    product.defvjp(forward, backward)
    given = [part.given for part in parts]
    narrowed = jax.lax.stop_gradient(args[data])
    for part in parts:
        narrowed = part.narrow(narrowed, part.given) if part.narrow else narrowed
    for k, part in enumerate(parts):
        given[k] = part.prepare(narrowed) if part.prepare else part.given
    return [product(args[data], args[1 - data], tuple(given))]


def for_probe(probe: Any, function: Callable, *args: Any) -> Any:
    """`function(*args)`, of the type of the probe whose cotangent it is."""
    return split_as(jax.typeof(probe).sharding, function, *args).astype(probe.dtype)
