"""Runs side by side in arrays with a leading axis of members: their sizes, and an epoch of all.

Whose turn it is, and what is decided between epochs, is in `sweep.team`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.training.network import Network
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.objective import Examples
from dynhp_jax.training.step.state import empty_tally
from dynhp_jax.training.step.step import make_step


def common_keeps(network: Network, masks: Sequence[Mapping[str, np.ndarray]]) -> list[UnitKeeps]:
    """For each member the units that its smaller arrays hold: equally many for all.

    Args:
      network: as everybody's arrays are.
      masks: of each member, {group: f32[units]}.

    Returns:
      {group: sorted indices} for each member. Of the inputs, whose data the members share, the
      units that any of them has left; else each one's own survivors, filled up with its first dead
      units where another has more.
    """
    shared = set(network.input_axes.values())
    keeps: list[dict[str, np.ndarray]] = [{} for _ in masks]
    for name in network.groups:
        alive = [np.asarray(mask[name]) > 0 for mask in masks]
        union = np.logical_or.reduce(alive)
        width = max(map(np.count_nonzero, alive))
        for mine, left in zip(keeps, alive, strict=True):
            if name in shared:
                left = union
            filled = np.concatenate([np.flatnonzero(left), np.flatnonzero(~left)])
            mine[name] = np.sort(filled[: max(width, np.count_nonzero(left))])
    return [UnitKeeps(mine, network.groups) for mine in keeps]


def make_epoch(network: Network, trainer: Trainer, batch: int, even: bool):
    """An epoch of several members as one function to be compiled.

    Args:
      network: sizes of everybody's arrays.
      trainer: one of the members'; what they share of it.
      batch: the largest mini-batch; static.
      even: whether it is everybody's.

    Returns:
      `epoch(state, inputs, targets, given, rows, sizes, steps) -> (state, tally)`, jitted, donating
      the state: like `epoch.make_epoch`, with a leading axis of members on all but inputs and
      targets. `sizes` and `steps`, i32[members]: mini-batches, and how many of them.
    """
    step = make_step(trainer.steps.setup(network))

    def take(state, tally, inputs, targets, given, rows, size, i):
        start = i * (batch if even else size)
        here = jax.lax.dynamic_slice_in_dim(rows, start, batch)
        mini = Examples(inputs, targets, here, None if even else size)
        return step(state, tally, mini, given)

    everyone = jax.vmap(take, in_axes=(0, 0, None, None, 0, 0, 0, None))

    def epoch(state, inputs, targets, given, rows, sizes, steps):
        def body(i, carry):
            moved = everyone(*carry, inputs, targets, given, rows, sizes, i)
            if even:
                return moved
            going = i < steps  # members with larger mini-batches are done earlier

            def choose(new, old):
                return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(choose, moved, carry)

        tally = jax.vmap(lambda state: empty_tally(state, network.sums))(state)
        return jax.lax.fori_loop(0, jnp.max(steps), body, (state, tally))

    return jax.jit(epoch, donate_argnums=0)


def stacked(trees: Sequence[Any]) -> Any:
    """Equal pytrees as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member_of(tree: Any, k: int) -> Any:
    """The k-th of stacked pytrees."""
    return jax.tree.map(lambda leaf: leaf[k], tree)
