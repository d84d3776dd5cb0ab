"""Low-rank changes of kernels: W + s A B with two small factors that are trained in W's place.

The product with A B is computed as two small ones, so that no array of the kernel's size is made:
neither the change nor a gradient of it. For a convolution A has the kernel's space and input
channels and makes `rank` channels, of which B makes the output's. Of a grouped convolution the
change itself is made, which is small.

Source: LoRA (Hu et al. 2021, 2106.09685): h = W x + s B A x, in their order of factors. A starts
from normal noise of variance 1 / (numbers that are summed over), B from zeros, so that the function
is at first the one that it was.

>>> import jax, jax.numpy as jnp
>>> def apply(params, x):
...     return jnp.tanh(x @ params["in"]) @ params["out"]
>>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((3, 2))}
>>> x = jnp.ones((8, 4))
>>> factors = low_rank_factors(jax.random.key(0), apply, params, x, paths=["in"], rank=2)
>>> factors["in"].a.shape, factors["in"].b.shape
((4, 2), (2, 3))
>>> adapted = low_rank(apply, scale=0.5)
>>> gradients = jax.grad(lambda factors: adapted(params, factors, x).sum())(factors)
>>> new = jax.tree.map(lambda factor, gradient: factor - gradient, factors, gradients)
>>> merged = merge_low_rank(params, new, scale=0.5)
>>> bool(jnp.allclose(apply(merged, x), adapted(params, new, x)))
True
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.common.tree_paths import Path, leaf_paths
from dynhp_jax.finetune.digits import Digit, Layout
from dynhp_jax.finetune.kernel_products import KernelReads, Read
from dynhp_jax.finetune.per_kernel import PerKernel
from dynhp_jax.finetune.product import DENSE
from dynhp_jax.jaxprs.interpreter import bind
from dynhp_jax.jaxprs.trace import trace, varying
from dynhp_jax.jaxprs.transforms import Call, transformed
from dynhp_jax.jaxprs.values import Value


@dataclasses.dataclass(frozen=True)
class KernelAxes:
    """The axes of a kernel as a product takes it.

    Attributes:
      leaf: the shape of the leaf, of one step's share in a loop.
      shape: of the kernel as the product takes it.
      digits: of the leaf, axis by axis.
      shared: axes that the data has, too, and the result.
      summed: axes that are summed over: input channels and the space of a convolution.
      free: axes that the result alone has.
      steps: how many kernels are stacked for a loop in the leaf; 0 for one without that axis.
    """

    leaf: tuple[int, ...]
    shape: tuple[int, ...]
    digits: Layout
    shared: tuple[int, ...]
    summed: tuple[int, ...]
    free: tuple[int, ...]
    steps: int

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of A and of B."""
        shared, summed, free = (
            tuple(self.shape[d] for d in axes) for axes in (self.shared, self.summed, self.free)
        )
        stacked = (self.steps,) if self.steps else ()
        return (*stacked, *shared, *summed, rank), (*stacked, *shared, rank, *free)

    def change(self, a: Any, b: Any) -> Any:
        """A B of one step, with the kernel's axes as the product takes them."""
        shared = tuple(range(len(self.shared)))
        found = lax.dot_general(a, b, (((a.ndim - 1,), (len(shared),)), (shared, shared)))
        return jnp.transpose(found, np.argsort((*self.shared, *self.summed, *self.free)))

    def in_leaf(self, a: Any, b: Any) -> Any:
        """A B as the leaf has it."""
        if self.steps:
            return jax.vmap(self.step.in_leaf)(a, b)
        change = self.change(a, b).reshape([digit.size for digit in self._digits])
        return jnp.transpose(change, self._order).reshape(self.leaf)

    def edges(self, leaf: Any) -> tuple[Any, Any]:
        """Of a leaf [(steps,) *shared, *summed] at the start of the free axes, and the other way.

        Of the product of a column of A and a row of ones this is the column.
        """
        if self.steps:
            return jax.vmap(self.step.edges)(leaf)
        sizes = [self._digits[k].size for k in self._order]
        array = jnp.transpose(leaf.reshape(sizes), np.argsort(self._order)).reshape(self.shape)
        array = jnp.transpose(array, (*self.shared, *self.summed, *self.free))
        start = (slice(None),) * len(self.shared)
        return array[(..., *(0,) * len(self.free))], array[(*start, *(0,) * len(self.summed))]

    @property
    def step(self) -> KernelAxes:
        """Of one step's kernel."""
        return dataclasses.replace(self, steps=0)

    @property
    def _digits(self) -> list[Digit]:
        return [digit for axis in self.digits for digit in axis]

    @property
    def _order(self) -> list[int]:
        """The digits in the leaf's order."""
        return sorted(range(len(self._digits)), key=lambda k: -self._digits[k].stride)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """Factors of a kernel's change; a pytree whose leaves are `a` and `b`.

    Attributes:
      a: f[(steps,) *shared, *summed, rank].
      b: f[(steps,) *shared, rank, *free].
      axes: of the kernel; static.
    """

    a: Any
    b: Any
    axes: KernelAxes = dataclasses.field(metadata={"static": True}, repr=False)


def low_rank(apply: Callable, scale: float = 1.0) -> Callable:
    """Adds low-rank changes to some kernels.

    Args:
      apply: `apply(variables, *inputs) -> outputs`.
      scale: s.

    Returns:
      `f(variables, factors, *inputs) -> outputs`, factors {path: `LowRank`} of `low_rank_factors`.
      Differentiate with respect to the factors alone; the inputs of these kernels are kept whole.

    Raises (when called):
      UserError: a kernel that is not there, or is used in another way than the factors are of.
    """

    def hook(call: Call, factors: Mapping[Path, LowRank]) -> _LowRank:
        reads = KernelReads(call.traced)
        reads.check(factors)
        for path, each in factors.items():
            if each.axes != _axes(path, reads):
                raise UserError(
                    f"the factors of {path!r} are of a kernel that is used otherwise;"
                    " make them of this function (`low_rank_factors`)"
                )
        return _LowRank(reads, factors, scale)

    return transformed(apply, 1, hook)


def low_rank_factors(
    key: jax.Array,
    apply: Callable,
    variables: Any,
    *inputs: Any,
    paths: Iterable[Path],
    rank: int,
) -> dict[Path, LowRank]:
    """Factors to start from; with these the function is the one that it was.

    Args:
      key: a PRNG key; kernels have keys of their own (`key_for`).
      apply: `apply(variables, *inputs) -> outputs`.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: example inputs, likewise.
      paths: the kernels.
      rank: of every change.

    Raises:
      UserError: a kernel that is not there or that cannot be changed in this way, or a rank that is
        no whole number from 1 on.
    """
    found = {}
    for path, axes in kernel_axes(apply, variables, *inputs, paths=paths).items():
        leaf = _leaves(variables)[path]
        found[path] = start_low_rank(key_for(key, path), axes, rank, jnp.result_type(leaf))
    return found


def kernel_axes(
    apply: Callable, variables: Any, *inputs: Any, paths: Iterable[Path]
) -> dict[Path, KernelAxes]:
    """path -> the axes of a kernel; arguments and errors as in `low_rank_factors`."""
    reads, paths = KernelReads(trace(apply, variables, inputs)), list(paths)
    reads.check(paths)
    return {path: _axes(path, reads) for path in paths}


def start_low_rank(key: jax.Array, axes: KernelAxes, rank: int, dtype: Any) -> LowRank:
    """Factors of one kernel to start from.

    Raises:
      UserError: a rank that is no whole number from 1 on.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"rank is {shown(rank)}; allowed: a whole number, 1 or more")
    of_a, of_b = axes.shapes(rank)
    summed = math.prod(axes.shape[d] for d in axes.summed)
    noise = jax.random.normal(key, of_a, dtype) / math.sqrt(summed)
    return LowRank(noise.astype(dtype), jnp.zeros(of_b, dtype), axes)


def merge_low_rank(variables: Any, factors: Mapping[Path, LowRank], scale: float = 1.0) -> Any:
    """The variables with the changes in the kernels: W + s A B."""
    names = leaf_paths(variables)
    leaves, structure = jax.tree.flatten(variables)

    def changed(leaf: Any, each: LowRank) -> Any:
        return leaf + (scale * each.axes.in_leaf(each.a, each.b)).astype(leaf.dtype)

    pairs = zip(names, leaves, strict=True)
    return structure.unflatten(
        [changed(leaf, factors[name]) if name in factors else leaf for name, leaf in pairs]
    )


def _leaves(variables: Any) -> dict[Path, Any]:
    return dict(zip(leaf_paths(variables), jax.tree.leaves(variables), strict=True))


def _axes(path: Path, reads: KernelReads) -> KernelAxes:
    found = {axes_of(read) for read in reads.reads[path]}
    if len(found) > 1:
        raise UserError(
            f"{path!r} is read by several products along different axes, so that one change of low"
            " rank does not fit all; leave it out"
        )
    return found.pop()


def axes_of(read: Read) -> KernelAxes:
    """The axes of a kernel as one product takes it."""
    eqn, product = read.eqn, read.product
    shape = eqn.invars[product.side].aval.shape
    numbers = eqn.params["dimension_numbers"]
    if product.kind == DENSE:
        shared, summed = tuple(numbers[1][product.side]), tuple(numbers[0][product.side])
        free = tuple(d for d in range(len(shape)) if d not in (*shared, *summed))
    else:
        shared, free = (), (numbers.rhs_spec[0],)
        summed = tuple(d for d in range(len(shape)) if d not in free)
    return KernelAxes(read.layout.shape, shape, read.held, shared, summed, free, read.layout.steps)


class _LowRank(PerKernel):
    def __init__(self, reads: KernelReads, factors: Mapping[Path, LowRank], scale: float):
        super().__init__(reads, factors)
        self.scale = scale

    def added(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Any]:
        read = self.read(eqn, values)
        if read is None:
            return []
        factors, product = self.given[read.path], read.product
        data, kernel = args[product.data], args[product.side]
        a, b = (_spread(factor, data).astype(kernel.dtype) for factor in (factors.a, factors.b))
        if product.kind == DENSE:
            found = _dense(eqn, product.side, factors.axes, data, a, b)
        elif product.grouped:
            found = bind(eqn, (data, factors.axes.change(a, b)))[0]
        else:
            found = _convolution(eqn, factors.axes, data, a, b)
        return [jnp.asarray(self.scale, found.dtype) * found]


def _spread(factor: Any, data: Any) -> Any:
    """One factor for all devices of a `shard_map`, whose gradient is the sum of what they find."""
    apart = tuple(sorted(varying(data) - varying(factor)))
    return lax.pcast(factor, apart, to="varying") if apart else factor


def _dense(eqn: Any, side: int, axes: KernelAxes, data: Any, a: Any, b: Any) -> Any:
    """The product of data with A, then B, as a matrix product has its axes."""
    contracted, shared = eqn.params["dimension_numbers"]
    how = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    batch, summed = tuple(range(len(axes.shared))), len(axes.shared) + np.arange(len(axes.summed))
    numbers = (contracted[1 - side], tuple(summed)), (shared[1 - side], batch)
    small = lax.dot_general(data, a, numbers, **how)  # [*shared, *of the data, rank]
    numbers = ((small.ndim - 1,), (len(batch),)), (batch, batch)
    found = lax.dot_general(small.astype(b.dtype), b, numbers, **how)
    if side == 1:
        return found
    # The kernel is on the left: its free axes come before those of the data.
    last = found.ndim - len(axes.free) + np.arange(len(axes.free))
    return jnp.moveaxis(found, last, len(batch) + np.arange(len(axes.free)))


def _convolution(eqn: Any, axes: KernelAxes, data: Any, a: Any, b: Any) -> Any:
    """The convolution of data with A, then B at every place."""
    small = bind(eqn, (data, jnp.moveaxis(a, -1, axes.free[0])))[0]
    made = eqn.params["dimension_numbers"].out_spec[1]
    precision = eqn.params["precision"]
    found = jnp.tensordot(small, b, ((made,), (0,)), precision=precision)
    return jnp.moveaxis(found, -1, made).astype(small.dtype)
