"""Which units go by their gates after an epoch, and what the gates that are left cost."""

from collections.abc import Mapping

import jax
import numpy as np

from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import of_fields
from dynhp_jax.gates import activity, size_goal
from dynhp_jax.gates.penalty import prices_of
from dynhp_jax.memory.paper import BYTES_PER_NUMBER
from dynhp_jax.structure.counts import parameters_left
from dynhp_jax.structure.groups import Groups
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import epoch_schedules

Masks = Mapping[str, np.ndarray]


def masks_left(
    config: Config, groups: Groups, epoch: int, rates: Mapping[str, np.ndarray], masks: Masks
) -> dict[str, np.ndarray]:
    """The units that are left after an epoch, {group: f32[units]}.

    Args:
      config: of the run.
      groups: of the network as its arrays are.
      epoch: its number, from 1.
      rates: how often each gate was open in it.
      masks: of the units that were left before.
    """
    settings = config.pruning
    if not epoch_schedules.prunes(config, epoch):
        return dict(masks)
    if not settings.size:
        return activity.keep_active(rates, masks, settings.gamma, groups)
    return size_goal.keep_to_size(
        rates, masks, settings.gamma, parse_bytes(settings.size),
        lambda left: _bytes(groups, left), groups, in_the_end=epoch == settings.stop,
    )  # fmt: skip


def prices(config: Config, groups: Groups, masks: Masks) -> dict[str, jax.Array]:
    """What the penalty holds against every gate, {group: f32[units]}.

    Nothing once the network has the size of `pruning.size`: gates that no unit may close any more
    would only be noise.
    """
    found = prices_of(groups, masks, config.penalty.convention)
    sized = config.prunes and bool(config.pruning.size)
    if sized and _bytes(groups, masks) <= parse_bytes(config.pruning.size):
        return {name: 0 * price for name, price in found.items()}
    return found


def check(config: Config, groups: Groups) -> None:
    """Raises ConfigError for a `pruning.size` that no network of these groups can have."""
    if config.prunes and config.pruning.size:
        whole = {name: np.ones(group.size, np.float32) for name, group in groups.items()}
        closed = {name: np.zeros(group.size) for name, group in groups.items()}
        least = activity.keep_active(closed, whole, 1.0, groups)
        sizes = _bytes(groups, whole), _bytes(groups, least)
        with of_fields(most="pruning.size"):
            size_goal.check(parse_bytes(config.pruning.size), *sizes)


def _bytes(groups: Groups, masks: Masks) -> int:
    return BYTES_PER_NUMBER * parameters_left(groups, masks)
