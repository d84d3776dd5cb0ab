"""Which rows are trained next: quotas for layers, and draws by chance, by weights, by rank.

`quotas` and `draw` choose so many rows of each layer that never change, so that a new choice
compiles nothing. `draw_pooled` draws from the rows of all layers together, as the papers do: then
the counts of the layers change from draw to draw.

Sources: TraDy (2510.19675), MeDyate (2510.20979); budgeted velocity (2312.05282).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.row_layout import RowLayout
from dynhp_jax.finetune.rows import Rows

LEAST_WEIGHT = 1e-12  # of rows that were never trained, or whose gradient was zero


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many rows of a layer are trained.

    Attributes:
      rows: how many, at each step of kernels that are stacked for a loop.
      cost: of the layer.
    """

    rows: int
    cost: Cost

    @property
    def numbers(self) -> int:
        """What these rows cost."""
        return self.rows * self.cost.row


def quotas(costs: Mapping[Path, Cost], layers: Iterable[Path], budget: float) -> dict[Path, Quota]:
    """The same share of every layer's rows, so that together they cost no more than the budget.

    Shares are rounded by largest remainders, as far as the budget allows; layers whose share is no
    row are left out.

    Args:
      costs: from `channel_costs`.
      layers: paths of the layers that may be trained.
      budget: numbers (`Cost.row` of all rows together).

    Raises:
      UserError: an unknown layer, or a budget below the cheapest row.

    >>> cost = Cost("dense", 4, 3, 1, 0, 0, 0, None)
    >>> {path: quota.rows for path, quota in quotas({"a": cost, "b": cost}, "ab", 16).items()}
    {'a': 2, 'b': 2}
    """
    layers = list(layers)
    for path in layers:
        if path not in costs:
            raise UserError(f"there is no cost of layer {path!r}; give paths of `channel_costs`")
    least = min((costs[path].row for path in layers), default=0)
    if not least or budget < least:
        raise UserError(
            f"a budget of {budget} numbers trains no row of these {len(layers)} layers; the"
            f" cheapest row takes {least}"
        )
    alpha = min(1.0, budget / sum(costs[path].total for path in layers))
    exact = {path: alpha * costs[path].channels for path in layers}
    counts = {path: int(share + 1e-9) for path, share in exact.items()}
    left = budget - sum(costs[path].row * count for path, count in counts.items())
    for path in sorted(layers, key=lambda path: counts[path] - exact[path]):
        if exact[path] > counts[path] + 1e-9 and costs[path].row <= left:
            counts[path] += 1
            left -= costs[path].row
    return {path: Quota(count, costs[path]) for path, count in counts.items() if count}


def draw(
    key: jax.Array, quotas: Mapping[Path, Quota], weights: Mapping[Path, Any] | None = None
) -> dict[Path, Rows]:
    """Rows of every layer, without replacement; can be jitted.

    Args:
      key: a PRNG key; layers have keys of their own (`key_for`).
      quotas: path -> how many.
      weights: path -> f[channels], at least 0: rows are drawn in proportion to them, one after the
        other (MeDyate: norms of gradients); by default all alike (TraDy).
    """

    return _drawn(_sizes(quotas), key, None if weights is None else dict(weights))


def draw_top(quotas: Mapping[Path, Quota], scores: Mapping[Path, Any]) -> dict[Path, Rows]:
    """The rows of the largest scores of every layer; of equal ones the first."""
    return _top(_sizes(quotas), dict(scores))


_Sizes = tuple[tuple[Path, int, RowLayout], ...]


def _sizes(quotas: Mapping[Path, Quota]) -> _Sizes:
    return tuple((path, quota.rows, quota.cost.layout) for path, quota in quotas.items())


# One program for all layers: by themselves each would compile several.
@functools.partial(jax.jit, static_argnums=0)
def _drawn(sizes: _Sizes, key: jax.Array, weights: Mapping[Path, Any] | None) -> dict[Path, Rows]:
    scores = {}
    for path, _, layout in sizes:
        noise = jax.random.gumbel(key_for(key, path), layout.index_shape(layout.count))
        scores[path] = noise if weights is None else noise + _logarithm(weights[path])
    return _best(sizes, scores)


@functools.partial(jax.jit, static_argnums=0)
def _top(sizes: _Sizes, scores: Mapping[Path, Any]) -> dict[Path, Rows]:
    return _best(sizes, scores)


def _best(sizes: _Sizes, scores: Mapping[Path, Any]) -> dict[Path, Rows]:
    found = {}
    for path, rows, layout in sizes:
        _, index = jax.lax.top_k(jnp.asarray(scores[path]), rows)
        found[path] = Rows(jnp.sort(index, axis=-1).astype(jnp.int32), layout)
    return found


def draw_pooled(
    key: jax.Array,
    costs: Mapping[Path, Cost],
    layers: Iterable[Path],
    budget: float,
    weights: Mapping[Path, Any] | None = None,
    skip: bool = False,
) -> dict[Path, np.ndarray]:
    """Rows from all layers together, in a random order, until the budget is full.

    Args:
      key: a PRNG key.
      costs: from `channel_costs`.
      layers: paths of the layers that may be trained.
      budget: numbers.
      weights: path -> f[channels]; by default all rows alike.
      skip: whether rows that are too dear are left out and cheaper ones tried; by default the first
        of these ends the draw, as in the papers' earlier code.

    Returns:
      path -> sorted row numbers, of layers with any.
    """
    layers = list(layers)
    owner = np.repeat(np.arange(len(layers)), [costs[path].channels for path in layers])
    price = np.array([costs[path].row for path in layers])[owner]
    number = np.concatenate([np.arange(costs[path].channels) for path in layers])
    noise = np.asarray(jax.random.gumbel(key, owner.shape), np.float64)
    if weights is not None:
        noise = noise + np.concatenate([np.asarray(_logarithm(weights[path])) for path in layers])
    order = np.argsort(-noise, kind="stable")
    chosen = order[_affordable(price[order], budget, skip)]
    found = {}
    for k, path in enumerate(layers):
        rows = np.sort(number[chosen[owner[chosen] == k]])
        if rows.size:
            found[path] = rows
    return found


def _affordable(prices: np.ndarray, budget: float, skip: bool) -> np.ndarray:
    """bool: which of what is offered one by one is taken."""
    if not skip:
        return np.cumsum(prices) <= budget
    taken, left = np.zeros(prices.size, bool), budget
    for k, price in enumerate(prices.tolist()):
        if price <= left:
            taken[k], left = True, left - price
    return taken


def capacities(
    chosen: Mapping[Path, Sequence[int]], costs: Mapping[Path, Cost], multiple: int = 4
) -> dict[Path, int]:
    """Room for pooled rows: their counts, rounded up so that few programs are compiled.

    Args:
      chosen: path -> row numbers.
      costs: from `channel_costs`.
      multiple: what counts are rounded up to, at most the layer's rows.
    """
    return {
        path: min(-(-len(rows) // multiple) * multiple, costs[path].channels)
        for path, rows in chosen.items()
    }


def largest_capacities(draws: Iterable[Mapping[Path, Sequence[int]]]) -> dict[Path, int]:
    """Room for every one of several pooled draws: the largest count of each layer."""
    found: dict[Path, int] = {}
    for chosen in draws:
        for path, rows in chosen.items():
            found[path] = max(found.get(path, 0), len(rows))
    return found


def remember_norms(
    norms: Mapping[Path, Any], rows: Mapping[Path, Rows], trained: Mapping[Path, Any], first: bool
) -> dict[Path, jax.Array]:
    """MeDyate's norms after an epoch: those of the rows that were trained are written anew.

    Args:
      norms: path -> f[channels], as they were.
      rows: path -> the rows that were trained.
      trained: path -> f[capacity], the raw norms of their gradients (`row_norms`).
      first: whether these are the first norms at all: then all other rows are given the largest.
    """
    if first:
        largest = jnp.max(jnp.stack([jnp.max(each) for each in trained.values()]))
        norms = {path: jnp.full_like(each, largest) for path, each in norms.items()}
    written = dict(norms)
    for path, each in rows.items():
        write = lambda old, index, new: old.at[index].set(new, mode="drop")  # noqa: E731
        write = jax.vmap(write) if each.layout.steps else write
        written[path] = write(jnp.asarray(norms[path]), each.index, trained[path])
    return written


def row_norms(gradients: Mapping[Path, Any], rows: Mapping[Path, Rows]) -> dict[Path, jax.Array]:
    """path -> f[capacity]: the norm of every chosen row's gradient."""
    found = {}
    for path, each in rows.items():
        squares = jnp.square(gradients[path])
        keep = {each.layout.at, *((0,) if each.layout.steps else ())}
        axes = tuple(d for d in range(squares.ndim) if d not in keep)
        found[path] = jnp.sqrt(jnp.sum(squares, axes))
    return found


def fastest_within(
    scores: Mapping[Path, Any], prices: Mapping[Path, float], budget: float
) -> dict[Path, np.ndarray]:
    """The units with the largest score per number that fit into a budget, by velocity or any score.

    Taken in descending order until the first that does not fit; units as good as that one are left
    out, too, so that the order of layers decides nothing.

    Args:
      scores: path -> f[units], such as |velocity| of every output channel.
      prices: path -> numbers that a unit of the layer costs (weights alone: its inputs are needed
        whole, so that no activation is saved).
      budget: numbers.

    Returns:
      path -> bool[units].

    >>> fastest_within({"a": [3.0, 1.0, 1.0]}, {"a": 1.0}, 2)["a"].tolist()
    [True, False, False]
    """
    paths = list(scores)
    values = [np.abs(np.asarray(scores[path], np.float64)) / prices[path] for path in paths]
    price = np.repeat([prices[path] for path in paths], [each.size for each in values])
    every = np.concatenate(values)
    order = np.argsort(-every, kind="stable")
    fits = np.cumsum(price[order]) <= budget
    limit = -np.inf if fits.all() else every[order[np.argmin(fits)]]
    return {path: each > limit for path, each in zip(paths, values, strict=True)}


def _logarithm(weights: Any) -> jax.Array:
    return jnp.log(jnp.maximum(jnp.asarray(weights), LEAST_WEIGHT))
