"""Pruning by gates to a size: the least active units go first, and none once the size is there.

The rule of `gates.activity` removes all units below a threshold, so that the size in the end
follows from the strength of the penalty and is known after the run only. Here the size is given. On
the way the same units go, but no more than it takes; in the end as many as it takes, whatever
their rates. Rates are probabilities, so that units of different groups are compared as they are.
"""

from collections.abc import Callable, Mapping

import numpy as np

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.gates.activity import keep_active
from dynhp_jax.structure.group import Group

Masks = Mapping[str, np.ndarray]


def keep_to_size(
    rates: Mapping[str, np.ndarray],
    masks: Masks,
    gamma: float,
    most: int,
    measure: Callable[[Masks], int],
    groups: Mapping[str, Group] | None = None,
    in_the_end: bool = False,
) -> dict[str, np.ndarray]:
    """Drops the units whose rate is below `gamma`, the least active first, down to the size.

    >>> rates, masks = {"h": [0.1, 0.4, 0.2, 0.9]}, {"h": [1, 1, 1, 1]}
    >>> def units(masks):
    ...     return int(sum(mask.sum() for mask in masks.values()))
    >>> keep_to_size(rates, masks, 0.5, 2, units)["h"].tolist()
    [0.0, 1.0, 0.0, 1.0]
    >>> keep_to_size(rates, masks, 0.3, 1, units)["h"].tolist()
    [0.0, 1.0, 0.0, 1.0]
    >>> keep_to_size(rates, masks, 0.3, 1, units, in_the_end=True)["h"].tolist()
    [0.0, 0.0, 0.0, 1.0]

    Args:
      rates: {group: [units]}, how often each gate was open (`activity.rates`).
      masks: {group: [units]}, 1 for living units.
      gamma: threshold in [0, 1].
      most: the size, in the unit of `measure`.
      measure: masks -> what the network takes; fewer units never take more.
      groups: of the model; see `activity.keep_active`.
      in_the_end: units go until the size is reached, also those whose rate is `gamma` or more.

    Returns:
      New masks, {group: f32[units]}. Those that came in, where they are of that size already.

    Raises:
      ArgumentError, ValueError: as `activity.keep_active`.
    """
    now = keep_active({}, masks, gamma)
    if measure(now) <= most:
        return now
    by_rate = keep_active(rates, masks, gamma, groups)
    if measure(by_rate) > most and not in_the_end:
        return by_rate
    ranks, count = _ranks(rates, masks)

    def without(units: int) -> dict[str, np.ndarray]:
        return keep_active(ranks, masks, units / count, groups)

    few, many = 0, count  # the size is not reached without `few`, and is, if at all, without `many`
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if measure(without(middle)) <= most else (middle, many)
    return without(many)


def check(most: int, whole: int, least: int) -> None:
    """Raises ArgumentError for a size that no network of these groups can have.

    Args:
      most: bytes that were asked for.
      whole: bytes of the parameters with all units.
      least: with as few as there may be.
    """
    if not least <= most < whole:
        allowed = f"from {least} bytes, with the fewest units, to below the {whole} of the whole"
        raise ArgumentError("most", most, allowed)


def _ranks(rates: Mapping[str, np.ndarray], masks: Masks) -> tuple[dict[str, np.ndarray], int]:
    """(rank / count of every living unit by its rate, first ones first on a tie; their count)."""
    alive = np.concatenate([np.asarray(masks[name]) > 0 for name in rates])
    values = np.concatenate([np.asarray(rate, np.float64) for rate in rates.values()])
    order = np.argsort(np.where(alive, values, np.inf), kind="stable")
    ranks = np.empty(order.size)
    count = max(1, int(alive.sum()))
    ranks[order] = np.arange(order.size) / count
    ends = np.cumsum([len(rate) for rate in rates.values()])[:-1]
    return dict(zip(rates, np.split(np.minimum(ranks, 1.0), ends), strict=True)), count
