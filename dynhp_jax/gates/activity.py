"""The activation rate of a gate over an epoch, and the pruning rule that reads it.

Source: Valerio et al. 2020, Eq. 6 (rate) and Eq. 7 (threshold). "Active" means that the drawn gate
is above 0, not that its value is large.

`observe` runs inside the compiled epoch; `rates` and `keep_active` run on the host between epochs,
in float64, so that a unit that was active in 3 of 10 observations survives a threshold of 0.3.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.structure.group import Group
from dynhp_jax.structure.keeps import check_masks


def observe(
    counts: Mapping[str, jax.Array], z: Mapping[str, jax.Array], masks: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Counts the open gates of one draw.

    Args:
      counts: {group: [units]}, observations so far in which each gate was open. Use int32: float32
        stops counting at 2^24 observations.
      z: {group: [units]} one draw for the mini-batch, or {group: [batch, units]} one per example.
        It makes 1 observation, or as many as there are examples; the caller adds them up.
      masks: {group: [units]}, 0 for units that are dead, whose gates do not count.

    Returns:
      The new counts, in the dtypes of the old ones.
    """
    return {
        name: count
        + jnp.sum(
            jnp.atleast_2d((z[name] > 0) & (masks[name] > 0)), axis=0, dtype=count.dtype
        )  # [batch or 1, units] -> [units]
        for name, count in counts.items()
    }


def rates(counts: Mapping[str, jax.Array], observations: int) -> dict[str, np.ndarray]:
    """Activation rates, {group: f64[units]} in [0, 1] (Eq. 6).

    A deterministic alternative to counting is the probability itself,
    `{name: gates.prob_open(log_alpha)}`; `keep_active` takes either.

    Raises:
      ValueError: no observation was made, or there are more open gates than observations.
    """
    if observations < 1:
        raise ValueError(
            f"{observations} observations; observe at least one draw of the gates before pruning"
        )
    result = {}
    for name, count in counts.items():
        result[name] = np.asarray(count, np.float64) / int(observations)
        if not ((result[name] >= 0) & (result[name] <= 1)).all():
            raise ValueError(
                f"group {name!r}: a gate was open {float(np.max(count)):g} times in {observations} "
                "observations; with gates per example every example is one observation"
            )
    return result


def keep_active(
    rates: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    gamma: float,
    groups: Mapping[str, Group] | None = None,
) -> dict[str, np.ndarray]:
    """Drops the units whose rate is below `gamma`; the dead stay dead (Eq. 7).

    A group never empties: if no living unit reaches `gamma`, the living one with the highest rate
    stays (the first of them on a tie).

    >>> keep_active({"h": [0.9, 0.5, 0.4]}, {"h": [1, 1, 1]}, gamma=0.5)["h"].tolist()
    [1.0, 1.0, 0.0]
    >>> keep_active({"h": [0.9, 0.2, 0.4]}, {"h": [0, 1, 1]}, gamma=0.5)["h"].tolist()
    [0.0, 0.0, 1.0]

    Args:
      rates: {group: [units]}; groups that are missing keep their masks.
      masks: {group: [units]}, 1 for living units.
      gamma: threshold in [0, 1]; 0 prunes nothing.
      groups: of the model. Where so many units of a group have to stay (`Group.least`), or equally
        many in each of its blocks, the living units with the highest rates stay as well: in each
        block as many as in the one of which most reach `gamma`.

    Returns:
      New masks, {group: f32[units]}.

    Raises:
      ArgumentError: `gamma` outside [0, 1].
      ValueError: a rate that is not a number, rates of another length, a group already empty, or
        keeps in the place of masks.
    """
    if not 0 <= gamma <= 1:
        raise ArgumentError("gamma", gamma, "a number from 0 to 1")
    check_masks(masks)
    result = {name: np.asarray(mask, np.float32) for name, mask in masks.items()}
    for name, rate in rates.items():
        rate, alive = np.asarray(rate, np.float64), np.asarray(masks[name]) > 0
        if rate.shape != alive.shape:
            raise ValueError(
                f"group {name!r}: rates of shape {rate.shape} for masks of shape {alive.shape}"
            )
        if np.isnan(rate).any():
            raise ValueError(f"group {name!r}: an activation rate is not a number")
        if not alive.any():
            raise ValueError(f"group {name!r} has no unit left; a group may not empty")
        group = groups[name] if groups and name in groups else None
        blocks, least = (group.blocks, group.least) if group else (1, 1)
        shape = (blocks, -1)
        ranks = np.argsort(np.where(alive, -rate, np.inf).reshape(shape), axis=1, kind="stable")
        rank = np.empty_like(ranks)
        np.put_along_axis(rank, ranks, np.arange(ranks.shape[1])[None], axis=1)
        count = max(least, (alive & (rate >= gamma)).reshape(shape).sum(1).max())
        kept = (alive.reshape(shape) & (rank < count)).reshape(-1)
        result[name] = kept.astype(np.float32)
    return result
