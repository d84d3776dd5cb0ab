"""One share of energy for each layer: the least error of gradients in the bytes of one for all.

Outputs and the gradient with respect to activations stay exact under `compressed`, so that the
error of a kernel's gradient depends on that kernel's ranks alone: with one backward pass for each
share the errors of all choices are known. What is chosen has the smallest sum of errors that the
stored numbers allow, by dynamic programming over these.

Source: ASI (2505.05086): its 'perplexity' is the norm of the error, its search is exhaustive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.calibration import captured, ranks_of
from dynhp_jax.finetune.compressed import compressed
from dynhp_jax.finetune.decomposition import stored_numbers
from dynhp_jax.finetune.rows import Rows, leaves_by_path, replaced, zero_probes
from dynhp_jax.finetune.selected import selected

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # those of the paper
_STEPS = 2_000  # sizes that the search tells apart


def search_ranks(
    apply: Callable,
    variables: Any,
    *inputs: Any,
    loss: Callable,
    paths: Collection[Path],
    epsilon: float = 0.8,
    how: str = "hosvd",
    rows: Mapping[Path, Rows] | None = None,
    shares: Sequence[float] = SHARES,
) -> dict[Path, dict[int, int]]:
    """Ranks for `compressed` that store no more numbers than `calibrate` does with one share.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, without transforms.
      variables: pytree of arrays.
      *inputs: a mini-batch of the size that is trained on.
      loss: `loss(outputs) -> f[]` of that mini-batch.
      paths: the kernels.
      epsilon: the share whose stored numbers may be spent.
      how, rows: as in `calibrate`.
      shares: that layers may have beside `epsilon`.

    Raises:
      UserError: as `calibrate` does.
    """
    rows = rows or {}
    arrays, channels = captured(apply, variables, inputs, paths, rows)
    every = sorted({*shares, epsilon})
    options = [
        {path: ranks_of(array, channels[path], share, how) for path, array in arrays.items()}
        for share in every
    ]
    way = "svd" if how == "svd" else "hosvd"
    gradients = [
        kernel_gradients(apply, variables, inputs, loss, arrays, rows, ranks, way)
        for ranks in ({}, *options)
    ]
    exact, *others = gradients

    def error(path: Path, found: Mapping[Path, Any]) -> float:
        return float(jnp.linalg.norm(found[path] - exact[path]))

    choices = [
        [
            (stored_numbers(array.shape, ranks[path]), error(path, found))
            for ranks, found in zip(options, others, strict=True)
        ]
        for path, array in arrays.items()
    ]
    limit = sum(each[every.index(epsilon)][0] for each in choices)
    chosen = cheapest(choices, limit)
    return {path: options[k][path] for path, k in zip(arrays, chosen, strict=True)}


def kernel_gradients(
    apply: Callable,
    variables: Any,
    inputs: tuple,
    loss: Callable,
    paths: Collection[Path],
    rows: Mapping[Path, Rows],
    ranks: Mapping[Path, Mapping[int, int]],
    how: str,
) -> dict[Path, jax.Array]:
    """path -> the gradient of a kernel, or of its chosen rows, where data are kept decomposed."""
    chosen = {path: rows[path] for path in paths if path in rows}
    leaves = leaves_by_path(variables)
    narrow = selected(apply, chosen) if chosen else lambda v, rows, probes, *x: apply(v, *x)
    kept = {path: each for path, each in ranks.items() if each}
    inner = compressed(narrow, kept, how) if kept else None

    def value(trained: tuple) -> jax.Array:
        whole, probes = trained
        given = replaced(variables, whole), chosen, probes
        if inner is None:
            return loss(narrow(*given, *inputs))
        return loss(inner(given[0], {}, *given[1:], *inputs)[0])

    whole = {path: leaves[path] for path in paths if path not in chosen}
    of_whole, of_rows = jax.jit(jax.grad(value))((whole, zero_probes(variables, chosen)))
    return {**of_whole, **of_rows}


def cheapest(choices: Sequence[Sequence[tuple[int, float]]], limit: int) -> list[int]:
    """Which option to take of each: the least sum of costs whose sizes sum to at most the limit.

    Args:
      choices: of each, (size, cost) of its options.
      limit: of the sizes; the smallest of each fit.

    >>> cheapest([[(1, 5.0), (4, 1.0)], [(1, 2.0), (4, 1.5)]], 5)
    [1, 0]
    """
    step = max(1, limit // _STEPS)
    least = [min(size for size, _ in options) for options in choices]
    best: dict[int, tuple[float, int, list[int]]] = {0: (0.0, 0, [])}
    for k, options in enumerate(choices):
        rest, after = sum(least[k + 1 :]), {}
        for cost, size, taken in best.values():
            for place, (more, worse) in enumerate(options):
                if size + more + rest > limit:
                    continue
                now = (cost + worse, size + more, [*taken, place])
                at = now[1] // step
                if at not in after or now < after[at]:
                    after[at] = now
        best = after
    return min(best.values())[2]
