"""Convolutions, padding and indexing of lax in NumPy, for `numpy_eval`.

Each takes the equation's parameters and its operands; None where a form is not covered.
"""

import numpy as np


def pad(p, x, value):
    for d, (low, high, inside) in enumerate(p["padding_config"]):
        size = x.shape[d] + max(0, x.shape[d] - 1) * inside + max(low, 0) + max(high, 0)
        wide = np.full((*x.shape[:d], size, *x.shape[d + 1 :]), value, x.dtype)
        at = max(low, 0) + np.arange(x.shape[d]) * (inside + 1)
        wide[(slice(None),) * d + (at,)] = x
        cut = slice(max(-low, 0), size - max(-high, 0))
        x = wide[(slice(None),) * d + (cut,)]
    return x


def conv(p, x, w):
    numbers = p["dimension_numbers"]
    x, w = x.transpose(numbers.lhs_spec), w.transpose(numbers.rhs_spec)
    space = x.ndim - 2
    config = [(0, 0, 0)] * 2 + [
        (low, high, step - 1)
        for (low, high), step in zip(p["padding"], p["lhs_dilation"], strict=True)
    ]
    x = pad({"padding_config": config}, x, 0.0)
    gaps = [(0, 0, 0)] * 2 + [(0, 0, step - 1) for step in p["rhs_dilation"]]
    w = pad({"padding_config": gaps}, w, 0.0)
    groups, batches = p["feature_group_count"], p["batch_group_count"]
    x = x.reshape(batches, -1, groups, x.shape[1] // groups, *x.shape[2:])
    w = w.reshape(batches, groups, -1, *w.shape[1:])
    steps = tuple(slice(None, None, step) for step in p["window_strides"])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[4:], tuple(range(4, 4 + space)))
    windows = windows[(..., *steps, *(slice(None),) * space)]
    outer, inner = list(range(10, 10 + space)), list(range(20, 20 + space))
    y = np.einsum(
        windows, [0, 1, 2, 3, *outer, *inner], w, [0, 2, 4, 3, *inner], [1, 0, 2, 4, *outer]
    )
    y = y.reshape(y.shape[0], -1, *y.shape[4:])
    return y.transpose(np.argsort(numbers.out_spec))


def _row_axis(numbers, sizes, operand, indices):
    """The axis that is indexed, row by row, by one number each."""
    if hasattr(numbers, "start_index_map"):
        axes, gone = numbers.start_index_map, numbers.collapsed_slice_dims
    else:
        axes, gone = numbers.scatter_dims_to_operand_dims, numbers.inserted_window_dims
    whole = all(sizes[d] == n for d, n in enumerate(operand.shape) if d not in axes)
    if len(axes) != 1 or gone != axes or numbers.operand_batching_dims or not whole:
        return None
    inside = (indices >= 0).all() and (indices < operand.shape[axes[0]]).all()
    return axes[0] if inside else None


def gather(p, x, indices):
    numbers = p["dimension_numbers"]
    d = _row_axis(numbers, p["slice_sizes"], x, indices)
    if d is None:
        return None
    y = np.moveaxis(x, d, 0)[indices[..., 0]]  # [indices, rest]
    order = [k for k in range(y.ndim) if k not in numbers.offset_dims] + list(numbers.offset_dims)
    return y.transpose(np.argsort(order))


def scatter_add(p, x, indices, updates):
    numbers = p["dimension_numbers"]
    windows = numbers.update_window_dims
    axes = numbers.scatter_dims_to_operand_dims
    sizes = list(np.delete(x.shape, axes[0])) if len(axes) == 1 else []
    if sizes != [updates.shape[d] for d in windows]:
        return None
    sizes.insert(axes[0], 1)
    d = _row_axis(numbers, sizes, x, indices)
    if d is None:
        return None
    order = [k for k in range(updates.ndim) if k not in windows] + list(windows)
    y = np.moveaxis(x, d, 0).copy()
    np.add.at(y, indices[..., 0], updates.transpose(order))
    return np.moveaxis(y, 0, d)


def cumsum(p, x):
    x = np.flip(x, p["axis"]) if p["reverse"] else x
    y = np.cumsum(x, p["axis"])
    return np.flip(y, p["axis"]) if p["reverse"] else y


ARRAYS = {
    "conv_general_dilated": conv,
    "cumsum": cumsum,
    "gather": gather,
    "pad": pad,
    "scatter-add": scatter_add,
}
