"""An epoch as one compiled function, or in parts where its data are streamed."""

from collections.abc import Callable

import jax
import optax

from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import devices
from dynhp_jax.training.step.objective import Examples
from dynhp_jax.training.step.savings import NOTHING, Savings
from dynhp_jax.training.step.state import Tally, TrainState, empty_tally
from dynhp_jax.training.step.step import make_step


def make_epoch(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    examples: int,
    batch: int,
    savings: Savings = NOTHING,
) -> Callable:
    """An epoch as one function to be compiled.

    Args:
      network, config, tx, examples, savings: as in `make_step`.
      batch: examples of a mini-batch; static.

    Returns:
      `epoch(state, inputs, targets, given, rows, steps) -> (state, tally)`, jitted, donating the
      state: one pass over inputs and targets, pytrees of [examples, ...], in the order `rows`,
      i32[examples]; `given` as in `make_step`. `steps`, i32[], is traced: one program serves any
      number of them.
    """
    part = make_part(network, config, tx, examples, batch, savings)

    def epoch(state: TrainState, inputs, targets, given, rows, steps):
        return part(state, empty_tally(state, network.sums), inputs, targets, given, rows, steps)

    return devices.jitted(epoch, config.devices, donate_argnums=(0,))


def make_part(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    examples: int,
    batch: int,
    savings: Savings = NOTHING,
) -> Callable:
    """`part(state, tally, inputs, targets, given, rows, steps) -> (state, tally)`, to be compiled.

    Some steps of an epoch, going on from a tally; `inputs`, `targets` and `rows` may be of fewer
    examples than the training set has. The rest is as in `make_epoch`.
    """
    take = make_one_step(network, config, tx, examples, batch, savings)

    def part(state: TrainState, tally: Tally, inputs, targets, given, rows, steps):
        def body(i, carry):
            return take(*carry, inputs, targets, given, rows, i)

        return jax.lax.fori_loop(0, steps, body, (state, tally))

    return part


def make_one_step(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    examples: int,
    batch: int,
    savings: Savings = NOTHING,
) -> Callable:
    """`take(state, tally, inputs, targets, given, rows, i) -> (state, tally)`, to be compiled.

    Step `i`, i32[], of an epoch that takes its examples in the order `rows`, i32[examples]. A loop
    on the host over it does what `make_epoch` does in one program; XLA on a CPU runs convolutions
    several times slower inside a loop than outside.
    """
    step = make_step(network, config, tx, examples, savings)

    def take(state: TrainState, tally: Tally, inputs, targets, given, rows, i):
        here = jax.lax.dynamic_slice_in_dim(rows, i * batch, batch)
        return step(state, tally, Examples(inputs, targets, here), given)

    return take
