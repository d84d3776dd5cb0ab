"""Whether a model keeps the examples of a batch apart, read from its jaxpr.

Per-example gradients exist only where it does. Of every primitive that is known to keep positions
of an axis apart, the table below says along which axes it does not; a primitive that is not in it
is refused. So is a result that has the batch on two axes: it is of pairs of examples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.collectives import BY_POSITION, written
from dynhp_jax.jaxprs.rules.elementwise import ELEMENTWISE, IDENTITIES
from dynhp_jax.jaxprs.rules.matrices import OF_LAST_AXES, whole_axes
from dynhp_jax.jaxprs.rules.reductions import CUMULATIVE, REDUCTIONS, WINDOWS
from dynhp_jax.jaxprs.rules.writing import SCATTERS, listed_axes, window_axes
from dynhp_jax.jaxprs.values import Analysis

# (equation, number of the operand) -> the axes of that operand along which positions meet, are
# left out, doubled or change their places.
Along = Callable[[Any, int], Sequence[int]]

_COLLECTIVES = frozenset({*BY_POSITION, "all_gather"})
_APART = IDENTITIES | {"broadcast_in_dim", "reshape", "squeeze", "stack", "transpose"}


def check(analysis: Analysis, batched: Callable[[Axis], bool]) -> None:
    """Refuses a model that mixes examples.

    Args:
      analysis: of the model; the jaxprs inside it are looked at, too.
      batched: whether the positions of an axis are examples.

    Raises:
      ValueError: an equation mixes them, or may do so; it says which primitive, and what to use.
    """
    for index, eqn in enumerate(analysis.jaxpr.eqns):
        name, met = eqn.primitive.name, False
        for k, value in enumerate(analysis.operands[index]):
            examples = {d for d, axis in enumerate(value.axes) if batched(axis)}
            if not examples:
                continue
            met = True
            if name == "scan":
                if 0 in examples and k >= eqn.params["num_consts"] + eqn.params["num_carry"]:
                    raise _unclear("'scan' goes from example to example")
            elif index in analysis.inner:
                continue
            elif name in _COLLECTIVES:
                # Other examples, or of the same ones the share of other parameters.
                raise _unclear(f"'{written(eqn)}' joins what several devices have")
            elif name not in _ALONG:
                raise _unclear(f"'{name}' has no rule for this")
            elif examples.intersection(_ALONG[name](eqn, k)):
                raise _mixed(f"'{name}' mixes the examples of a batch")
        for var in eqn.outvars if met else ():
            axes = analysis.values[var].axes
            if sum(axis_size(axis) > 1 and batched(axis) for axis in axes) > 1:
                raise _mixed(f"'{name}' pairs the examples of a batch with each other")
        for body in analysis.inner.get(index, ()):
            check(body, batched)


def _mixed(what: str) -> ValueError:
    return ValueError(
        f"{what} (batch normalisation in training? a contrastive loss?), so per-example gradients"
        " do not exist; use variance='micro' (of_micro_batches)"
    )


def _unclear(why: str) -> ValueError:
    return ValueError(
        f"it cannot be told whether the examples of a batch are mixed: {why}; use variance='vmap'"
        " (per_example) if they are not, else variance='micro' (of_micro_batches)"
    )


def _resized(eqn: Any, k: int) -> list[int]:
    """Of slices: where the result is smaller. One as large as the operand is all of it."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return [d for d, size in enumerate(before) if size != after[d]] if k == 0 else []


def _updated(eqn: Any, k: int) -> list[int]:
    whole, part = (eqn.invars[i].aval.shape for i in (0, 1))
    return [d for d, size in enumerate(whole) if size != part[d]] if k < 2 else []


def _padded(eqn: Any, k: int) -> list[int]:
    config = eqn.params["padding_config"]
    return [d for d, amounts in enumerate(config) if any(amounts)] if k == 0 else []


def _gathered(eqn: Any, k: int) -> list[int]:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = eqn.invars[k].aval.shape
    if k == 1:
        return [len(shape) - 1]  # the coordinates
    alike = numbers.operand_batching_dims
    return [d for d, size in enumerate(shape) if sizes[d] != size and d not in alike]


def _windows(eqn: Any, k: int) -> list[int]:
    p = eqn.params
    moved = zip(p["window_dimensions"], p["window_strides"], p["padding"], strict=True)
    return [d for d, (size, stride, pad) in enumerate(moved) if size * stride != 1 or any(pad)]


def _joined(eqn: Any, k: int) -> Sequence[int]:
    """The parts of a number of a wider type, if they are an axis that is lost."""
    before, after = len(eqn.invars[0].aval.shape), len(eqn.outvars[0].aval.shape)
    return range(after, before)


def _convolved(eqn: Any, k: int) -> Sequence[int]:
    numbers = eqn.params["dimension_numbers"]
    if k == 0 and eqn.params["batch_group_count"] == 1:
        return numbers.lhs_spec[1:]
    return range(len(eqn.invars[k].aval.shape))


def _scattered(eqn: Any, k: int) -> Sequence[int]:
    numbers, shapes = eqn.params["dimension_numbers"], [var.aval.shape for var in eqn.invars]
    if k == 1:
        alike = numbers.scatter_indices_batching_dims
        return [d for d in range(len(shapes[1])) if d not in alike]
    pairs = window_axes(numbers, len(shapes[0])).items()
    whole = {(d, u) for d, u in pairs if shapes[0][d] == shapes[2][u]}
    if k == 0:
        apart = {d for d, _ in whole} | set(numbers.operand_batching_dims)
    else:
        listed = listed_axes(numbers, len(shapes[2]))
        apart = {u for _, u in whole} | {listed[b] for b in numbers.scatter_indices_batching_dims}
    return [d for d in range(len(shapes[k])) if d not in apart]


def _of_last_axes(eqn: Any, k: int) -> Sequence[int]:
    first, here = len(eqn.invars[0].aval.shape), len(eqn.invars[k].aval.shape)
    return range(min(first - whole_axes(eqn), here), here)


def _given(name: str) -> Along:
    """The axis or axes that a parameter of the equation holds."""

    def along(eqn: Any, k: int) -> Sequence[int]:
        rank = len(eqn.invars[k].aval.shape)
        return [int(d) % rank for d in np.ravel(eqn.params[name])]

    return along


_ALONG: dict[str, Along] = {
    **dict.fromkeys((*ELEMENTWISE, *_APART), lambda eqn, k: ()),
    **dict.fromkeys((*REDUCTIONS, "argmax", "argmin"), _given("axes")),
    **dict.fromkeys(CUMULATIVE, _given("axis")),
    **dict.fromkeys(WINDOWS, _windows),
    **dict.fromkeys(("slice", "dynamic_slice"), _resized),
    **dict.fromkeys(SCATTERS, _scattered),
    **dict.fromkeys(("fft", *OF_LAST_AXES), _of_last_axes),
    "bitcast_convert_type": _joined,
    "concatenate": _given("dimension"),
    "conv_general_dilated": _convolved,
    "dot_general": lambda eqn, k: eqn.params["dimension_numbers"][0][k],
    "dynamic_update_slice": _updated,
    "gather": _gathered,
    "pad": _padded,
    "rev": _given("dimensions"),
    "sort": _given("dimension"),
    "split": _given("axis"),
    "tile": lambda eqn, k: [d for d, times in enumerate(eqn.params["reps"]) if times != 1],
    "top_k": _given("axis"),
    "unstack": _given("axis"),
}
