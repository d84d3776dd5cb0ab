"""Selected rows of one random architecture against the slices of its whole gradient, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_eval

from dynhp_jax.common.tree_paths import leaf_paths
from dynhp_jax.finetune.kernel_products import KernelReads
from dynhp_jax.finetune.rows import Rows
from dynhp_jax.finetune.selected import selected
from dynhp_jax.jaxprs.trace import trace


def random_rows(layout, capacity, rng):
    """Some rows, in any order, with padding among them."""
    steps = max(layout.steps, 1)
    index = np.full((steps, capacity), layout.count)
    for row in index:
        chosen = rng.permutation(layout.count)[: rng.integers(1, capacity + 1)]
        row[rng.permutation(capacity)[: chosen.size]] = chosen
    return Rows((index if layout.steps else index[0]).astype(np.int32), layout)


def slices(layout, array, index):
    """The rows of an array, taken number by number: what `RowLayout.taken` has to give."""
    if layout.steps:
        pairs = zip(array, index, strict=True)
        return np.stack([slices(layout.step, one, rows) for one, rows in pairs])
    flat = np.arange(array.size)
    number = np.zeros(array.size, int)  # of the row that each number is in
    place = 1
    for digit in layout.rows[::-1]:
        number += flat // digit.stride % digit.size * place
        place *= digit.size
    found = [array.reshape(-1)[number == row] for row in index]  # none: padding
    width = array.size // layout.count
    rows = np.stack([each if each.size else np.zeros(width, array.dtype) for each in found])
    shape = layout.shape_of(len(index))
    others = (*shape[: layout.at], *shape[layout.at + 1 :])
    return np.moveaxis(rows.reshape(len(index), *others), 0, layout.at)


def check(case, draw, choices=3):
    """Compares several choices of rows, which are values of one program.

    Returns:
      dict: 'error', the largest of all arrays, relative to the largest entry or to one; 'kernels',
      the kinds of those that were selected; 'refused', how many leaves were not; 'choices'.
    """
    reads = KernelReads(trace(case.apply, case.variables, case.inputs))
    usable = reads.usable()
    if not usable:
        return {"error": 0.0, "kernels": [], "refused": len(reads.others), "choices": 0}
    rng = np.random.default_rng(draw.integer(0, 2**16))
    layouts = {path: each[0].layout for path, each in usable.items()}
    capacities = {path: draw.integer(1, layout.count + 1) for path, layout in layouts.items()}
    shapes = {path: layouts[path].shape_of(count) for path, count in capacities.items()}
    chosen = selected(case.apply, usable)
    weights = rng.normal(size=jax.eval_shape(case.apply, case.variables, *case.inputs).shape)
    real = [k for k, x in enumerate(case.inputs) if np.issubdtype(x.dtype, np.floating)]
    given = [case.inputs[k] for k in real]

    def program(function, trained, *more):
        def of(trained, real_inputs, *more):
            inputs = list(case.inputs)
            for k, x in zip(real, real_inputs, strict=True):
                inputs[k] = x
            out = function(trained, inputs, *more)
            return jnp.sum(weights * out) + jnp.sum(out**2) / 2, out

        gradient = jax.grad(of, (0, 1), has_aux=True)
        found, shape = jax.make_jaxpr(gradient, return_shape=True)(trained, given, *more)
        structure = jax.tree.structure(shape)
        return lambda *args: structure.unflatten(numpy_eval.run(found, jax.tree.leaves(args)))

    ordinary = program(lambda v, x: case.apply(v, *x), case.variables)
    (whole, to_inputs), out = ordinary(case.variables, given)
    both = (case.variables, {path: np.zeros(shape) for path, shape in shapes.items()})

    def rows_of():
        return {path: random_rows(layouts[path], count, rng) for path, count in capacities.items()}

    of_rows = program(lambda t, x, rows: chosen(t[0], rows, t[1], *x), both, rows_of())
    worst = 0.0
    for _ in range(choices):
        rows = rows_of()
        ((others, slices_found), to_inputs_too), out_too = of_rows(both, given, rows)
        pairs = [(out, out_too), *zip(to_inputs, to_inputs_too, strict=True)]
        leaves = zip(jax.tree.leaves(whole), jax.tree.leaves(others), strict=True)
        for path, (leaf, other) in zip(leaf_paths(whole), leaves, strict=True):
            if path in rows:
                pairs.append((slices(layouts[path], leaf, rows[path].index), slices_found[path]))
                pairs.append((np.zeros_like(leaf), other))
            else:
                pairs.append((leaf, other))
        worst = max(worst, *(relative(a, b) for a, b in pairs))
    kinds = [
        read.product.kind + (" in steps" if read.layout.steps else "")
        for read, *_ in usable.values()
    ]
    return {"error": worst, "kernels": kinds, "refused": len(reads.others), "choices": choices}


def relative(a, b):
    """The largest difference of two arrays, by the largest entry of the first, or by one."""
    return float(np.max(np.abs(a - b), initial=0) / max(1, np.max(np.abs(a), initial=0)))
