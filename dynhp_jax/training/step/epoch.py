"""An epoch as one compiled function, or in parts where its data are streamed."""

from collections.abc import Callable

import jax

from dynhp_jax.training.step import devices
from dynhp_jax.training.step.objective import Examples
from dynhp_jax.training.step.setup import Setup
from dynhp_jax.training.step.state import Tally, TrainState, empty_tally
from dynhp_jax.training.step.step import make_step


def make_epoch(setup: Setup, batch: int) -> Callable:
    """An epoch as one function to be compiled.

    Args:
      setup: of the step.
      batch: examples of a mini-batch; static.

    Returns:
      `epoch(state, inputs, targets, given, rows, steps) -> (state, tally)`, jitted, donating the
      state: one pass over inputs and targets, pytrees of [examples, ...], in the order `rows`,
      i32[examples]; `given` as in `make_step`. `steps`, i32[], is traced: one program serves any
      number of them.
    """
    part, sums = make_part(setup, batch), setup.network.sums

    def epoch(state: TrainState, inputs, targets, given, rows, steps):
        return part(state, empty_tally(state, sums), inputs, targets, given, rows, steps)

    return devices.jitted(epoch, setup.config.devices, donate_argnums=(0,))


def make_part(setup: Setup, batch: int) -> Callable:
    """`part(state, tally, inputs, targets, given, rows, steps) -> (state, tally)`, to be compiled.

    Some steps of an epoch, going on from a tally; `inputs`, `targets` and `rows` may be of fewer
    examples than the training set has. The rest is as in `make_epoch`.
    """
    take = make_one_step(setup, batch)

    def part(state: TrainState, tally: Tally, inputs, targets, given, rows, steps):
        def body(i, carry):
            return take(*carry, inputs, targets, given, rows, i)

        return jax.lax.fori_loop(0, steps, body, (state, tally))

    return part


def make_one_step(setup: Setup, batch: int) -> Callable:
    """`take(state, tally, inputs, targets, given, rows, i) -> (state, tally)`, to be compiled.

    Step `i`, i32[], of an epoch that takes its examples in the order `rows`, i32[examples]. A loop
    on the host over it does what `make_epoch` does in one program; XLA on a CPU runs convolutions
    several times slower inside a loop than outside.
    """
    step = make_step(setup)

    def take(state: TrainState, tally: Tally, inputs, targets, given, rows, i):
        here = jax.lax.dynamic_slice_in_dim(rows, i * batch, batch)
        return step(state, tally, Examples(inputs, targets, here), given)

    return take
