"""The arrays of a training run, what steps read beside them, and how both begin.

Randomness comes from a named stream and the number of the step or epoch, never from a key that is
kept and split, so that a run that goes on from a checkpoint draws what the uninterrupted run would
have drawn.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common import random_keys
from dynhp_jax.gates import hard_concrete
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import weight_mean
from dynhp_jax.training.step.weight_mean import Averages

Array = jax.Array


class Means(NamedTuple):
    """Running means that forget; divided by `weight` they are free of the start at zero."""

    weight: Array  # f32[], 1 - decay^steps
    grad_variance: Array  # f32[], of ||S||_1
    loss: Array  # f32[], of the cross-entropy plus the penalty
    cross_entropy: Array  # f32[]


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
    """

    step: Array
    variables: dict[str, Any]
    gates: dict[str, Array]
    masks: dict[str, Array]
    opt_state: Any
    means: Means
    averages: Averages | tuple[()] = ()

    @property
    def evaluated(self) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
        """Variables, gates and masks of what is evaluated: of the mean, if there is one."""
        source = self.averages or self
        return source.variables, source.gates, self.masks


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
    input_moves: Array | tuple[()] = ()
    places: Array | tuple[()] = ()


class Tally(NamedTuple):
    """Sums over the steps of an epoch.

    `counts` holds, by group, in how many observations each gate was open (i32[units]); an epoch
    makes one observation per step, or one per example if gates are drawn for each.
    """

    counts: dict[str, Array]
    loss: Array
    cross_entropy: Array
    penalty: Array
    wrong: Array


def stream(seed: int, name: str) -> Array:
    """The key of a named source of randomness; fold the number of the step or epoch into it."""
    return random_keys.key_for(jax.random.key(seed), name)


def copies(config: Config) -> int:
    """How many arrays of the parameters' sizes a state holds: themselves, moments and the mean.

    >>> copies(Config())
    3
    """
    moments = {"adam": 2, "momentum": 1, "sgd": 0}[config.optimizer.name]
    return 1 + moments + bool(config.optimizer.ema)


def initial_state(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    params_key: Array,
    gates_key: Array,
) -> TrainState:
    """The state before the first step, drawn from the streams 'params' and 'log_alpha'."""
    params_key, gates_key = random_keys.fused(params_key), random_keys.fused(gates_key)
    variables = network.spec.init(params_key)
    gates = {
        name: hard_concrete.init(
            random_keys.key_for(gates_key, name),
            group.size,
            config.gates.open_input if name == "input" else config.gates.open_hidden,
        )
        if config.gated
        else jnp.full(group.size, hard_concrete.OPEN)
        for name, group in network.groups.items()
    }
    zero = jnp.zeros((), jnp.float32)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=dict(variables),
        gates=gates,
        masks={name: jnp.ones_like(value) for name, value in gates.items()},
        opt_state=tx.init({"params": variables["params"], "gates": gates}),
        means=Means(zero, zero, zero, zero),
        averages=weight_mean.start(variables, gates) if config.optimizer.ema else (),
    )


def abstract_state(
    network: Network, config: Config, tx: optax.GradientTransformation
) -> TrainState:
    """Shapes and types of the state of any network, smaller ones too."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(
        functools.partial(initial_state, network, config, tx), params_key=key, gates_key=key
    )


def abstract_inputs(state: TrainState, inputs: tuple[int, ...] | None = None) -> StepInputs:
    """Shapes and types of what goes with a state; `inputs` is their shape, if they are moved."""
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
        input_moves=() if inputs is None else key,
        places=() if inputs is None else jax.ShapeDtypeStruct(inputs, jnp.int32),
    )


def empty_tally(state: TrainState) -> Tally:
    """The tally before the first step."""
    counts = {name: jnp.zeros(mask.shape, jnp.int32) for name, mask in state.masks.items()}
    sums = (jnp.zeros((), jnp.float32) for _ in range(3))  # buffers of their own, to be donated
    return Tally(counts, *sums, jnp.zeros((), jnp.int32))
