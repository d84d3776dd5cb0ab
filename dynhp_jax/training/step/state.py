"""The arrays of a training run, what steps read beside them, and how both begin.

Randomness comes from a named stream and the number of the step or epoch, never from a key that is
kept and split, so that a run that goes on from a checkpoint draws what the uninterrupted run would
have drawn.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common import random_keys
from dynhp_jax.gates import hard_concrete
from dynhp_jax.structure.group import INPUT
from dynhp_jax.training.batch_rule import reads_squared_norm
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import weight_mean
from dynhp_jax.training.step.weight_mean import Averages

Array = jax.Array


class Means(NamedTuple):
    """Running means that forget; divided by `weight` they are free of the start at zero."""

    weight: Array  # f32[], 1 - decay^steps
    grad_variance: Array  # f32[], of ||S||_1
    loss: Array  # f32[], with the penalty
    data_loss: Array  # f32[], of the loss without the penalty
    squared_norm: Array | tuple[()] = ()  # f32[], of the mean gradient, where the rule reads it


class TrainState(NamedTuple):
    """All arrays of a run.

    Attributes:
      step: i32[], updates so far.
      variables: {'params': ..., and, with BatchNorm, 'batch_stats': ...}.
      gates: {group: log_alpha f32[units]}.
      masks: {group: f32[units]}, 0 for units that are pruned but still take room in the arrays.
      opt_state: of optax, over {'params': ..., 'gates': ...}.
      means: see `Means`.
      averages: of variables and gates, where `optimizer.ema` asks for them; else ().
      own: what an extension keeps; else ().
    """

    step: Array
    variables: dict[str, Any]
    gates: dict[str, Array]
    masks: dict[str, Array]
    opt_state: Any
    means: Means
    averages: Averages | tuple[()] = ()
    own: Any = ()

    @property
    def evaluated(self) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array], Any]:
        """Variables, gates, masks and `own` of what is evaluated: of the mean, if there is one."""
        if not self.averages:
            return self.variables, self.gates, self.masks, self.own
        own = weight_mean.evaluated(self.averages, self.own)
        return self.averages.variables, self.averages.gates, self.masks, own


class StepInputs(NamedTuple):
    """What steps read and an epoch does not change.

    Numbers of a run that are no shapes come in here, so that runs that differ in them alone (seeds,
    lambda) share their compiled programs, and so that what changes from epoch to epoch
    (`epoch_schedules`) compiles nothing.

    Attributes:
      noise: key<fry>[], of the gates' draws.
      lam: f32[], strength of the penalty.
      prices: {group: f32[units]}, the parameters that the penalty holds against every gate.
      units: {group: i32[units]}, their numbers among all units of the whole network's groups.
      input_noise: key<fry>[], of the noise on the inputs.
      rate: f32[], factor of all step sizes.
      forgetting: f32[], share of a step in `TrainState.averages`.
      teaching: f32[], the teacher's share of the loss.
      draws: key<fry>[], of what the model draws in training, such as dropout; () where it does not.
      input_moves: key<fry>[], of what `augmentation` does; () where it does nothing.
      places: i32[*inputs], the positions that the inputs have in a whole example; or ().
    """

    noise: Array
    lam: Array
    prices: dict[str, Array]
    units: dict[str, Array]
    input_noise: Array
    rate: Array
    forgetting: Array
    teaching: Array
    draws: Array | tuple[()] = ()
    input_moves: Array | tuple[()] = ()
    places: Array | tuple[()] = ()


class Tally(NamedTuple):
    """Sums over the steps of an epoch.

    `counts` holds, by group, in how many observations each gate was open (i32[units]); an epoch
    makes one observation per step, or one per example if gates are drawn for each. `metrics` are
    the sums of the task's, by name.
    """

    counts: dict[str, Array]
    loss: Array
    data_loss: Array
    penalty: Array
    metrics: dict[str, Array]


def stream(seed: int, name: str) -> Array:
    """The key of a named source of randomness; fold the number of the step or epoch into it."""
    return random_keys.key_for(jax.random.key(seed), name)


def copies(config: Config) -> int:
    """How many arrays of the parameters' sizes a state holds: themselves, moments and the mean.

    >>> copies(Config())
    3
    """
    moments = {"adam": 2, "momentum": 1, "sgd": 0}.get(config.optimizer.name, 2)
    return 1 + moments + bool(config.optimizer.ema)


def initial_state(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    start: Any,
    gates_key: Array,
    own_key: Any,
) -> TrainState:
    """The state before the first step.

    Args:
      network, config, tx: of the run.
      start: the model's variables where there are some (`Network.given`), else the key of the
        stream 'params' that they are drawn from.
      gates_key: of the stream 'log_alpha'.
      own_key: of the stream 'extension'; () without one.
    """
    gates_key, variables = random_keys.fused(gates_key), start
    if network.given is None:
        variables = network.model.init(random_keys.fused(start))
    gates = {
        name: hard_concrete.init(
            random_keys.key_for(gates_key, name),
            group.size,
            config.gates.open_input if group.kind == INPUT else config.gates.open_hidden,
        )
        if config.gated
        else jnp.full(group.size, hard_concrete.OPEN)
        for name, group in network.groups.items()
    }
    zero, variables = jnp.zeros((), jnp.float32), dict(variables)
    extension = network.extension
    own = extension.start(variables, own_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        gates=gates,
        masks={name: jnp.ones_like(value) for name, value in gates.items()},
        opt_state=tx.init({"params": extension.trained(variables, own), "gates": gates}),
        means=Means(zero, zero, zero, zero, zero if reads_squared_norm(config) else ()),
        averages=(
            weight_mean.start(variables, gates, extension.averaged(own))
            if config.optimizer.ema
            else ()
        ),
        own=own,
    )


def abstract_state(
    network: Network, config: Config, tx: optax.GradientTransformation
) -> TrainState:
    """Shapes and types of the state of any network, smaller ones too."""
    key, model = jax.eval_shape(lambda: jax.random.key(0)), network.model
    start = key if network.given is None else model.shapes()
    make = functools.partial(initial_state, network, config, tx)
    return jax.eval_shape(make, start, key, key)


def abstract_inputs(
    state: TrainState, inputs: tuple[int, ...] | None = None, draws: bool = False
) -> StepInputs:
    """Shapes and types of what goes with a state.

    Args:
      state: arrays or shapes.
      inputs: the shape of an example's inputs, if they are moved.
      draws: whether the model draws in training.
    """
    masks, number = state.masks.items(), jax.ShapeDtypeStruct((), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return StepInputs(
        noise=key,
        lam=number,
        prices={name: jax.ShapeDtypeStruct(mask.shape, jnp.float32) for name, mask in masks},
        units={name: jax.ShapeDtypeStruct(mask.shape, jnp.int32) for name, mask in masks},
        input_noise=key,
        rate=number,
        forgetting=number,
        teaching=number,
        draws=key if draws else (),
        input_moves=() if inputs is None else key,
        places=() if inputs is None else jax.ShapeDtypeStruct(inputs, jnp.int32),
    )


def empty_tally(state: TrainState, sums: Mapping[str, Any]) -> Tally:
    """The tally before the first step.

    Args:
      state: of the run.
      sums: shapes and types of those of the metrics, `Network.sums`.
    """
    counts = {name: jnp.zeros(mask.shape, jnp.int32) for name, mask in state.masks.items()}
    totals = (jnp.zeros((), jnp.float32) for _ in range(3))  # buffers of their own, to be donated
    return Tally(counts, *totals, {name: jnp.zeros(s.shape, s.dtype) for name, s in sums.items()})
