"""Ranks and factors for `compressed`, from one mini-batch: how much of what is read is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune import decomposition
from dynhp_jax.finetune.compressed import HOW, WITH_STATE, Factors, Ranks
from dynhp_jax.finetune.kernel_products import KernelReads, place
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.jaxprs.hooks import Hook
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.products import Part
from dynhp_jax.jaxprs.trace import Traced, trace
from dynhp_jax.jaxprs.values import Value

MULTIPLE = 4  # that ranks of examples and channels are rounded up to


def captured(
    apply: Callable,
    variables: Any,
    inputs: tuple,
    paths: Collection[Path],
    rows: Mapping[Path, Rows] | None = None,
) -> tuple[dict[Path, Any], dict[Path, int]]:
    """The data that kernels' products read (of the chosen rows) from one batch, and its channels.

    Returns:
      (path -> array, path -> its axis of channels).

    Raises:
      UserError: a kernel that is not there or is read in a loop or more than once.
    """
    traced = trace(apply, variables, inputs)
    reads = KernelReads(traced)
    reads.check(paths)
    for path in paths:
        if len(reads.reads[path]) > 1 or reads.reads[path][0].loop:
            raise UserError(f"{path!r} is read in a loop or more than once; leave it out")
    capture = jax.jit(lambda leaves: _capture(traced, reads, leaves, paths, rows or {}))
    arrays = capture(jax.tree.leaves((variables, inputs)))
    return arrays, {path: reads.reads[path][0].product.summed[0] for path in paths}


def _capture(
    traced: Traced,
    reads: KernelReads,
    leaves: list[Any],
    paths: Collection[Path],
    rows: Mapping[Path, Rows],
) -> dict[Path, Any]:
    found: dict[Path, Any] = {}

    class Capture(Hook):
        def parts(self, eqn: Any, values: list[Value], args: list[Any]) -> list[Part]:
            read = reads.by_place.get(place(eqn, values))
            if read is not None and read.path in paths:
                array = args[read.product.data]
                if read.path in rows:
                    array = read.product.narrow(array, rows[read.path].index)
                found[read.path] = array
            return []

    Run(traced.walk, hook=Capture())(traced.analysis, leaves)
    return found


def calibrate(
    apply: Callable,
    variables: Any,
    *inputs: Any,
    paths: Collection[Path],
    epsilon: float = 0.8,
    how: str = "hosvd",
    rows: Mapping[Path, Rows] | None = None,
    key: jax.Array | None = None,
) -> tuple[dict[Path, dict[int, int]], Factors]:
    """Ranks that keep a share of each mode's energy on one batch, and factors to start from.

    Ranks of examples and channels are rounded up to multiples of 4; axes of full rank are left
    whole. The examples of another batch are other examples, so 'fixed' leaves that axis whole.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, without transforms.
      variables: pytree of arrays.
      *inputs: a mini-batch of the size that is trained on.
      paths: the kernels.
      epsilon: the share of the sum of squares that every mode keeps, above 0 and at most 1.
      how: as in `compressed`.
      rows: the rows that are trained, if they are chosen; the capacities have to stay.
      key: with 'asi', factors start from noise of this key instead of the batch's own; with
        'random' they are its noise.

    Returns:
      (ranks, factors) for `compressed`; factors are {} with 'svd' and 'hosvd'.
    """
    if how not in HOW:
        raise UserError(f"how is {shown(how)}; allowed: {', '.join(map(repr, HOW))}")
    if not 0 < epsilon <= 1:
        raise UserError(f"epsilon is {shown(epsilon)}; allowed: a number above 0 and at most 1")
    ranks: dict[Path, dict[int, int]] = {}
    factors: Factors = {}
    found, channels = captured(apply, variables, inputs, paths, rows)
    for path, array in found.items():
        ranks[path] = ranks_of(array, channels[path], epsilon, how)
        if how == "random":
            factors[path] = _noise(key, path, array, ranks[path])
        elif how in WITH_STATE and key is not None:
            own = key_for(key, path)
            factors[path] = decomposition.first_factors(own, array.shape, ranks[path])
        elif how in WITH_STATE:
            factors[path] = _leading(array, ranks[path])
    return ranks, factors


def ranks_of(array: Any, channels: int, epsilon: float, how: str) -> dict[int, int]:
    """axis -> rank that keeps a share of the energy, of the axes that `how` decomposes.

    Args:
      array: the data.
      channels: its axis of channels.
      epsilon, how: as in `calibrate`.
    """
    if how == "random":
        rank = -(-math.ceil(epsilon * array.shape[channels]) // MULTIPLE) * MULTIPLE
        return {channels: rank} if rank < array.shape[channels] else {}
    modes = {"svd": (0,), "fixed": range(1, array.ndim)}.get(how, range(array.ndim))
    ranks = {}
    for axis in modes:
        rank = decomposition.rank_for(decomposition.spectrum(array, axis), epsilon)
        if axis in (0, channels):
            rank = -(-rank // MULTIPLE) * MULTIPLE
        if rank < array.shape[axis]:
            ranks[axis] = rank
    return ranks


def factors_of(
    apply: Callable,
    variables: Any,
    *inputs: Any,
    ranks: Ranks,
    how: str,
    rows: Mapping[Path, Rows] | None = None,
    key: jax.Array | None = None,
) -> Factors:
    """Factors of ranks that are known, from one batch; arguments as in `calibrate`."""
    found, _ = captured(apply, variables, inputs, list(ranks), rows)
    if how == "random":
        return {path: _noise(key, path, found[path], each) for path, each in ranks.items()}
    return {path: _leading(found[path], each) for path, each in ranks.items()}


def _noise(
    key: jax.Array | None, path: Path, array: Any, ranks: Mapping[int, int]
) -> dict[int, Any]:
    own = key_for(jax.random.key(0) if key is None else key, path)
    return {
        axis: jax.random.normal(own, (array.shape[axis], rank)) / rank**0.5
        for axis, rank in ranks.items()
    }


def _leading(array: Any, ranks: Mapping[int, int]) -> dict[int, Any]:
    wide = array.astype(jnp.float32)
    return {axis: decomposition.leading(wide, axis, rank) for axis, rank in ranks.items()}
