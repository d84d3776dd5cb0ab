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

from dynhp_jax import averaging, keys
from dynhp_jax import gates as hard_concrete
from dynhp_jax.averaging import Averages
from dynhp_jax.config import Config
from dynhp_jax.network import Network
from dynhp_jax.savings import NOTHING, Savings

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


class Given(NamedTuple):
    """What steps read and an epoch does not change.

    Numbers of a run that are no shapes come in here, so that runs that differ in them alone (seeds,
    lambda) share their compiled programs, and so that what changes from epoch to epoch
    (`annealing`) compiles nothing.

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
    return keys.named(jax.random.key(seed), name)


def copies(config: Config) -> int:
    """How many arrays of the parameters' sizes a state holds: themselves, moments and the mean.

    >>> copies(Config())
    3
    """
    moments = {"adam": 2, "momentum": 1, "sgd": 0}[config.optimizer.name]
    return 1 + moments + bool(config.optimizer.ema)


def make_optimizer(config: Config, savings: Savings = NOTHING) -> optax.GradientTransformation:
    """The optax transformation that the config names, over {'params': ..., 'gates': ...}.

    With the step size that schedules multiply: its updates are proportional to it.
    """
    rate = config.optimizer.learning_rate
    moment = jnp.bfloat16 if savings.bf16_moments else None
    if config.optimizer.name == "adam":
        tx = optax.adam(rate, mu_dtype=moment)
    else:
        momentum = 0.9 if config.optimizer.name == "momentum" else None
        tx = optax.sgd(rate, momentum, accumulator_dtype=moment)
    parts = [tx]
    if config.gates.learning_rate:
        # Updates are proportional to the step size, so that the gates' may be another.
        factor = config.gates.learning_rate / rate

        def faster(updates, params):
            return {**updates, "gates": jax.tree.map(lambda u: factor * u, updates["gates"])}

        parts.append(optax.stateless(faster))
    if config.optimizer.weight_decay:
        # Loshchilov and Hutter 2019 (1711.05101): beside the gradient, not through its moments.
        kernels = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
        decay = rate * config.optimizer.weight_decay
        parts.append(optax.add_decayed_weights(-decay, kernels))
    return optax.chain(*parts) if len(parts) > 1 else tx


def initial_state(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    params_key: Array,
    gates_key: Array,
) -> TrainState:
    """The state before the first step, drawn from the streams 'params' and 'log_alpha'."""
    params_key, gates_key = keys.fused(params_key), keys.fused(gates_key)
    variables = network.spec.init(params_key)
    gates = {
        name: hard_concrete.init(
            keys.named(gates_key, name),
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
        averages=averaging.start(variables, gates) if config.optimizer.ema else (),
    )


def state_shapes(network: Network, config: Config, tx: optax.GradientTransformation) -> TrainState:
    """Shapes and types of the state of any network, smaller ones too."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(
        functools.partial(initial_state, network, config, tx), params_key=key, gates_key=key
    )


def given_shapes(state: TrainState, inputs: tuple[int, ...] | None = None) -> Given:
    """Shapes and types of what goes with a state; `inputs` is their shape, if they are moved."""
    masks, number = state.masks.items(), jax.ShapeDtypeStruct((), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Given(
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
