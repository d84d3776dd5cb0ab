"""Equations whose parameters hold shapes or positions: counted anew where positions were cut.

A rule maps (run, equation, values of its operands, values of its results, operands) to the results.
Primitives that are not here take their shapes from their operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from dynhp_jax.jaxprs.interpreter import RESIZE, Run, bind
from dynhp_jax.jaxprs.labels import axis_size
from dynhp_jax.jaxprs.rules.indexing import static_gather_axis, window_places
from dynhp_jax.jaxprs.rules.writing import SCATTERS, written_places
from dynhp_jax.jaxprs.shardings import take


def _resize(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        RESIZE.update(dict.fromkeys(names, function))
        return function

    return register


@_resize("broadcast_in_dim")
def _broadcast_in_dim(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    p = eqn.params
    return [
        lax.broadcast_in_dim(
            args[0], run.shape(outs[0]), p["broadcast_dimensions"], out_sharding=p["sharding"]
        )
    ]


@_resize("reshape")
def _reshape(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    p = eqn.params
    return [lax.reshape(args[0], run.shape(outs[0]), p["dimensions"], out_sharding=p["sharding"])]


@_resize("tile")
def _tile(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    copies = [
        run.size(axis[:1]) if n > 1 else 1
        for n, axis in zip(eqn.params["reps"], outs[0].axes, strict=True)
    ]
    return bind(eqn, args, reps=tuple(copies))


@_resize("iota", "random_bits", "rng_bit_generator")
def _at_full_size(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    # The values belong to positions: made for all of them, then taken, so that the units that
    # survive see what they would have seen.
    return [run.cut(result, value) for result, value in zip(bind(eqn, args), outs, strict=True)]


@_resize("slice")
def _slice(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    p, result = eqn.params, args[0]
    strides = p["strides"] or (1,) * result.ndim
    for d, axis in enumerate(ins[0].axes):
        alive = run.alive(axis)
        window = np.arange(p["start_indices"][d], p["limit_indices"][d], strides[d])
        if window.size == alive.size:
            continue
        rank = np.cumsum(alive) - 1
        chosen = rank[window[alive[window]]]
        if chosen.size and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + chosen.size)):
            result = lax.slice_in_dim(result, int(chosen[0]), int(chosen[0]) + chosen.size, axis=d)
        else:
            result = take(result, chosen, d)
    return [result]


@_resize("split")
def _split(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    d = eqn.params["axis"]
    alive = run.alive(ins[0].axes[d])
    bounds = np.cumsum((0, *eqn.params["sizes"]))
    sizes = [int(alive[a:b].sum()) for a, b in zip(bounds, bounds[1:], strict=False)]
    return bind(eqn, args, sizes=tuple(sizes))


@_resize("pad")
def _pad(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    config = []
    for axis, (low, high, interior) in zip(outs[0].axes, eqn.params["padding_config"], strict=True):
        if low > 0 or high > 0:
            alive = run.alive(axis)
            if not alive.all():
                low, high = int(alive[:low].sum()), int(alive[alive.size - high :].sum())
        config.append((low, high, interior))
    return bind(eqn, args, padding_config=tuple(config))


@_resize("conv_general_dilated")
def _conv(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    groups = eqn.params["feature_group_count"]
    if groups == 1:
        return bind(eqn, args)
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = numbers.lhs_spec[1], numbers.rhs_spec[1]
    return bind(eqn, args, feature_group_count=args[0].shape[lhs] // args[1].shape[rhs])


@_resize("gather")
def _gather(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    sizes = list(eqn.params["slice_sizes"])
    full = [axis_size(axis) for axis in ins[0].axes]
    static = static_gather_axis(eqn, ins[1])
    if static is not None:
        (made,) = set(range(len(outs[0].axes))) - set(eqn.params["dimension_numbers"].offset_dims)
        alive, wanted = run.alive(ins[0].axes[static]), run.alive(outs[0].axes[made])
        if not (alive.all() and wanted.all()):
            places = (np.cumsum(alive) - 1)[ins[1].const[wanted, 0]]
            # Of the type of those that it replaces: inside shard_map they may be 'varying'.
            none = lax.full_like(args[1], 0, shape=(places.size, 1))
            args = [args[0], none + jnp.asarray(places, args[1].dtype)[:, None]]
    for d, size in enumerate(sizes):
        if size == full[d] and d != static:
            sizes[d] = args[0].shape[d]
    return bind(eqn, args, slice_sizes=tuple(sizes))


@_resize("dynamic_slice")
def _dynamic_slice(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    starts = _starts(run, ins[0], ins[1:], args[1:], eqn.params["slice_sizes"])
    return bind(eqn, [args[0], *starts], slice_sizes=run.shape(outs[0]))


@_resize("dynamic_update_slice")
def _dynamic_update_slice(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    if not args[1].size:
        return [args[0]]
    starts = _starts(run, ins[0], ins[2:], args[2:], eqn.invars[1].aval.shape)
    return bind(eqn, [*args[:2], *starts])


def _starts(run: Run, value: Any, starts: list, args: list, sizes: tuple[int, ...]) -> list:
    """Where windows at known places start among the positions that are left."""
    shape, args = tuple(map(axis_size, value.axes)), list(args)
    for d, places in window_places(starts, shape, sizes).items():
        alive = run.alive(value.axes[d])
        if not alive.all():
            args[d] = lax.full_like(args[d], int(alive[: places[0]].sum()))
    return args


@_resize(*SCATTERS)
def _scatter(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    value, updates = ins[0], args[2]
    places = written_places(eqn, ins[1])
    cut = {d: run.alive(value.axes[d]) for d in places if run.is_cut(value.axes[d])}
    if not updates.size:
        return [args[0]]
    if not cut:
        return bind(eqn, args)
    numbers, indices = eqn.params["dimension_numbers"], np.array(ins[1].const)
    for k, d in enumerate(numbers.scatter_dims_to_operand_dims):
        if d not in cut:
            continue
        rank = np.cumsum(cut[d]) - cut[d]  # positions left before each of them
        if indices.ndim == 2:
            indices = rank[places[d][cut[d][places[d]]]][:, None]
        else:
            indices[k] = rank[places[d][0]]
    # Of the type of those that they replace: inside shard_map they may be 'varying'.
    none = lax.full_like(args[1], 0, shape=indices.shape)
    return bind(eqn, [args[0], none + jnp.asarray(indices, args[1].dtype), updates])


@_resize("div")
def _div(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    # A mean over an axis is one over the positions that are counted.
    summed = ins[0].summed
    if summed and ins[1].const is not None and ins[1].const.size == 1:
        count = math.prod(axis_size(axis) for axis in summed)
        if ins[1].const.item() == count:
            left = math.prod(np.count_nonzero(run.counted(axis)) for axis in summed)
            args = [args[0], jnp.full_like(args[1], left)]
    return bind(eqn, args)


@_resize("eq", "ne", "lt", "le", "gt", "ge")
def _compare(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    # Positions that were chosen are counted among those that are left; so is what counts them.
    axes = [v.index.axes[0] for v in ins if v.index]
    if axes and run.is_cut(axes[0]):
        rank = np.cumsum(run.alive(axes[0])) - 1
        args = [
            array if v.counts is None else jnp.asarray(rank, array.dtype)[array]
            for v, array in zip(ins, args, strict=True)
        ]
    return bind(eqn, args)


@_resize("top_k")
def _top_k(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    k, d = eqn.params["k"], eqn.params.get("axis", -1)
    if args[0].shape[d] < k:
        raise ValueError(
            f"'top_k' chooses {k} of an axis of which {args[0].shape[d]} positions are left; "
            f"keep {k} or more"
        )
    return bind(eqn, args)


@_resize("reduce_sum")
def _reduce_sum(run: Run, eqn: Any, ins: list, outs: list, args: list) -> list:
    # Of numbers that are known beforehand, all that are counted: ones, to count units.
    const, gone = ins[0].const, eqn.params["axes"]
    if const is None or not any(run.is_cut(ins[0].axes[d]) for d in gone):
        return bind(eqn, args)
    for d, axis in enumerate(ins[0].axes):
        const = const.compress(run.counted(axis) if d in gone else run.alive(axis), d)
    return bind(eqn, [jnp.asarray(const, args[0].dtype)])
