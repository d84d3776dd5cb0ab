"""Products that keep their data decomposed for the backward pass; forward passes stay exact.

Only the kernel's gradient sees the approximation: outputs and the gradient with respect to the data
are the ordinary ones. The gradient is made from the core: modes that the product sums over position
by position (examples, tokens) are contracted in the cotangent, a convolution's space is expanded in
the core, and channels are expanded in the result.

Sources: HOSVD and SVD (2411.06346), ASI (2505.05086), fixed factors as in LANCE (2509.21617).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune import decomposition
from dynhp_jax.finetune.kernel_products import KernelReads, place
from dynhp_jax.finetune.product import KernelProduct
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.products import Kept, Part
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Value

HOW = ("svd", "hosvd", "asi", "fixed", "random")
WITH_STATE = ("asi", "fixed", "random")

Ranks = Mapping[Path, Mapping[int, int]]
Factors = dict[Path, dict[int, Any]]


def compressed(apply: Callable, ranks: Ranks, how: str = "hosvd") -> Callable:
    """Makes some products keep a core and factors instead of their data.

    Args:
      apply: `apply(variables, *inputs) -> outputs`; also under `selected`, in either order: then of
        the chosen channels.
      ranks: path of a kernel -> {axis of the data: rank}; axes that are missing are whole. From
        `calibrate`, or one's own. With 'svd' axis 0 alone.
      how: 'svd' or 'hosvd': factors are computed in every step; 'asi': by one step of subspace
        iteration from those of the step before, which are state; 'fixed': the factors that are
        given, renewed by `calibrate`; 'random': the same, of noise, along the channels.

    Returns:
      `f(variables, factors, *inputs) -> (outputs, factors)`: factors {path: {axis: f[size, rank]}}
      with 'asi' (those of the next step) and 'fixed' (the same), {} otherwise. A decomposition
      loses of a data array's squared norm at most the sum over its axes of what each axis's rank
      loses.

    Raises:
      UserError: an unknown `how`; when called: a kernel that is not there or that cannot be, a
        rank that is not from 1 to the axis's size, factors that are missing or of other shapes.
    """
    if how not in HOW:
        raise UserError(f"how is {shown(how)}; allowed: {', '.join(map(repr, HOW))}")
    wrong = [path for path, each in ranks.items() if how == "svd" and set(each) - {0}]
    if wrong:
        raise UserError(f"how='svd' decomposes axis 0 alone; ranks of {wrong[0]!r} have others")

    def hook(call: Call, factors: Factors) -> _Compressed:
        reads = KernelReads(call.traced)
        if not ranks:
            reads.check_any()
        reads.check(ranks)
        for path in ranks if how in WITH_STATE else ():
            _check_state(path, reads, factors, how)
        return _Compressed(reads, ranks, factors, how)

    return transformed(apply, 1, hook)


def _check_state(path: Path, reads: KernelReads, factors: Factors, how: str) -> None:
    if path not in factors:
        raise UserError(
            f"how={how!r} needs factors of {path!r} to start from; `calibrate` gives them"
        )
    first, *others = reads.reads[path]
    if others or first.loop:
        where = f"inside '{first.loop[-1]}'" if first.loop else "more than once"
        raise UserError(
            f"{path!r} is read {where}, so its factors cannot be carried from step to step; use"
            " how='hosvd' for it, or leave it out"
        )


class _Compressed(Hook):
    def __init__(self, reads: KernelReads, ranks: Ranks, factors: Factors, how: str):
        self.reads, self.ranks, self.how = reads, ranks, how
        self.factors = {path: dict(each) for path, each in factors.items()}

    def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
        read = self.reads.by_place.get(place(eqn, values))
        if read is None or not self.ranks.get(read.path):
            return []
        product, ranks = read.product, self.ranks[read.path]

        def prepare(array: Any) -> dict[int, Any]:
            _check_ranks(read.path, ranks, array.shape)
            array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
            return self._factors(read.path, array, ranks)

        def unpack(core: Any, factors: dict[int, Any]) -> Kept:
            dtype = args[product.data].dtype

            def gradient(function: Callable, cotangent: Any, by_channel: bool) -> Any:
                of_core = functools.partial(_from_core, product, core, factors, dtype)
                return of_core(function, cotangent, by_channel and not product.grouped)

            whole = decomposition.expanded(core, factors)
            return Kept(whole.astype(dtype), gradient=gradient)

        def kernel(kept: Kept, cotangent: Any) -> Any:
            if product.plain:
                return product.placed(kept.contracted(product.gradient, cotangent))
            return kept.contracted(product.whole_gradient, cotangent, by_channel=False)

        part = Part(
            product.data,
            prepare=prepare,
            pack=lambda array, factors: decomposition.core(
                array.astype(jnp.promote_types(array.dtype, jnp.float32)), factors
            ),
            unpack=unpack,
            kernel=kernel,
        )
        return [part]

    def _factors(self, path: Path, array: Any, ranks: Mapping[int, int]) -> dict[int, Any]:
        if self.how in ("fixed", "random"):
            return _fitting(path, self.factors[path], array.shape, ranks)
        if self.how != "asi":
            return {axis: decomposition.leading(array, axis, k) for axis, k in ranks.items()}
        before = _fitting(path, self.factors[path], array.shape, ranks)
        found = {axis: decomposition.iterated(array, axis, before[axis]) for axis in ranks}
        self.factors[path] = found
        return found

    def finish(self, outputs: Any) -> Any:
        return outputs, self.factors


def _from_core(
    product: KernelProduct,
    core: Any,
    factors: Mapping[int, Any],
    dtype: Any,
    function: Callable,
    cotangent: Any,
    by_channel: bool,
) -> Any:
    """`function(array, cotangent)` of the array that a core and its factors stand for."""
    channels = product.summed[0]
    matched = {axis: product.matched(axis) for axis in factors}
    outside = {axis for axis in factors if matched[axis] is not None}
    inside = set(factors) - outside - ({channels} if by_channel else set())
    array = decomposition.expanded(core, {axis: factors[axis] for axis in inside})
    for axis in outside:
        transposed = factors[axis].T.astype(cotangent.dtype)
        cotangent = decomposition.times(cotangent, transposed, matched[axis])
    found = function(array.astype(dtype), cotangent)
    if by_channel and channels in factors:
        found = decomposition.times(found, factors[channels].astype(found.dtype), 0)
    return found


def _check_ranks(path: Path, ranks: Mapping[int, int], shape: tuple[int, ...]) -> None:
    for axis, rank in ranks.items():
        if not 0 <= axis < len(shape):
            raise UserError(
                f"the data of {path!r} has shape {shape} and no axis {axis}; allowed: axes from 0"
                f" to {len(shape) - 1}"
            )
        if not 1 <= rank <= shape[axis]:
            raise UserError(
                f"the rank of axis {axis} of the data of {path!r} is {rank}; allowed: from 1 to"
                f" {shape[axis]}, the size of the axis"
            )


def _fitting(
    path: Path, factors: Mapping[int, Any], shape: tuple[int, ...], ranks: Mapping[int, int]
) -> dict[int, Any]:
    wanted = {axis: (shape[axis], rank) for axis, rank in ranks.items()}
    found = {axis: jnp.shape(factor) for axis, factor in factors.items()}
    if found != wanted:
        raise UserError(
            f"the factors of {path!r} have shapes {found}; needed: {wanted}; calibrate anew when"
            " rows or the mini-batch are of another number"
        )
    return dict(factors)
