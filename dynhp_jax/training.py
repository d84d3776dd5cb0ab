"""The state of a training run, one step of it, and an epoch as one compiled function.

Everything in this file is a pure function of pytrees. Randomness comes from a named stream and the
number of the step or epoch, never from a key that is kept and split, so that a run that goes on
from a checkpoint draws what the uninterrupted run would have drawn.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax import averaging, devices
from dynhp_jax import gates as hard_concrete
from dynhp_jax.averaging import Averages
from dynhp_jax.config import Config
from dynhp_jax.criteria import activation
from dynhp_jax.gating import gated
from dynhp_jax.gradients import Examples, Fixed, make_gradients
from dynhp_jax.input_noise import make_perturb
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
    """

    noise: Array
    lam: Array
    prices: dict[str, Array]
    units: dict[str, Array]
    input_noise: Array
    rate: Array
    forgetting: Array
    teaching: Array


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
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


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
    variables = network.spec.init(params_key)
    gates = {
        name: hard_concrete.init(
            jax.random.fold_in(gates_key, zlib.crc32(name.encode())),
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


def given_shapes(state: TrainState) -> Given:
    """Shapes and types of what goes with a state."""
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
    )


def make_step(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    examples: int,
    savings: Savings = NOTHING,
) -> Callable:
    """One update.

    Args:
      network: the model and its groups.
      config: the run.
      tx: the optimizer.
      examples: N, the size of the training set.
      savings: what it does without, to take less memory.

    Returns:
      `step(state, tally, examples, given) -> (state, tally)` for one mini-batch, the
      `gradients.Examples`; see `Given`.
    """
    gradients = make_gradients(network, config, examples, savings)
    draw = make_draw(network, config)
    perturb = make_perturb(network, config.data.noise)
    annealed = config.optimizer.schedule != "constant" or config.optimizer.warmup > 0

    def step(state: TrainState, tally: Tally, examples: Examples, given: Given):
        kept = {name: value for name, value in state.variables.items() if name != "params"}
        trained = {"params": state.variables["params"], "gates": state.gates}

        def z_of(gates):
            return draw(gates, state.masks, given, state.step, len(examples.rows))

        if config.data.noise:
            key = jax.random.fold_in(given.input_noise, state.step)
            examples = examples._replace(
                perturb=lambda images, first: perturb(images, key, given.units, first)
            )
        fixed = Fixed(kept, state.masks, given.prices, given.lam, state.averages, given.teaching)
        grads, found = gradients(trained, fixed, z_of, examples)
        # All gradients are done before the optimizer starts: activations are gone by then, and XLA
        # writes the new moments over the old ones, of which it otherwise keeps a copy.
        grads = jax.lax.optimization_barrier(grads)
        change, opt_state = tx.update(grads, state.opt_state, trained)
        if annealed:
            change = jax.tree.map(lambda update: given.rate * update, change)
        trained = optax.apply_updates(trained, change)
        variables = {**kept, **found.updates, "params": trained["params"]}
        gates = state.gates
        if config.gated:
            most_open = config.gates.most_open
            gates = {k: hard_concrete.clamp(v, most_open) for k, v in trained["gates"].items()}
        averages = state.averages
        if averages:
            averages = averaging.moved(averages, variables, gates, given.forgetting)
        state = TrainState(
            step=state.step + 1,
            variables=variables,
            gates=gates,
            masks=state.masks,
            opt_state=opt_state,
            means=smooth(
                state.means,
                Means(1.0, found.grad_variance, found.loss, found.cross_entropy),
                config,
            ),
            averages=averages,
        )
        z = found.z
        if examples.count is not None and config.gates.per_example:
            z = {name: jnp.where(examples.valid[:, None], gate, 0.0) for name, gate in z.items()}
        seen = Tally(
            counts=activation.observe(tally.counts, z, state.masks),
            loss=tally.loss + found.loss,
            cross_entropy=tally.cross_entropy + found.cross_entropy,
            penalty=tally.penalty + found.penalty,
            wrong=tally.wrong + found.wrong,
        )
        # Under jax_enable_x64 sums come out wider than the loop was started with.
        return state, jax.tree.map(lambda old, new: new.astype(old.dtype), tally, seen)

    return step


def make_draw(network: Network, config: Config) -> Callable:
    """`draw(gates, masks, given, step, batch) -> z`: of living units, 0 for those of dead ones."""
    names, spread = list(network.groups), devices.spreading(config.devices)

    def draw(gates, masks, given: Given, step, batch):
        if not names:
            return {}
        if not config.gated:
            shape = (batch,) if config.gates.per_example else ()
            return {
                name: jnp.broadcast_to(masks[name], (*shape, masks[name].size)) for name in names
            }
        # All groups in one draw: a generator per group would make compiling much slower.
        z = hard_concrete.sample(
            jax.random.fold_in(given.noise, step),
            jnp.concatenate([gates[name] for name in names]),
            batch if config.gates.per_example else None,
            units=jnp.concatenate([given.units[name] for name in names]),
            of=network.all_units,
        )
        if config.gates.per_example:
            z = spread(z)
        ends = np.cumsum([gates[name].size for name in names])[:-1]
        parts = jnp.split(z, ends, axis=-1)
        return {name: masks[name] * part for name, part in zip(names, parts, strict=True)}

    return draw


def smooth(means: Means, now: Means, config: Config) -> Means:
    """The running means after one more observation."""
    decay = config.batch.decay
    return jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), means, now
    )


def make_order(examples: int) -> Callable:
    """`order(source, number) -> i32[examples]`, jitted: how an epoch takes the examples.

    Args:
      examples: N, the size of the training set.
    """

    def order(source, number):
        rows = jax.random.permutation(jax.random.fold_in(source, number), examples)
        return rows.astype(jnp.int32)

    return jax.jit(order)


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
      `epoch(state, images, labels, given, rows, steps) -> (state, tally)`, jitted, donating the
      state: one pass over images f32[examples, ...] and labels i32[examples], in the order `rows`,
      i32[examples]; `given` as in `make_step`. `steps`, i32[], is traced: one program serves any
      number of them.
    """
    part = make_part(network, config, tx, examples, batch, savings)

    def epoch(state: TrainState, images, labels, given, rows, steps):
        return part(state, empty_tally(state), images, labels, given, rows, steps)

    return devices.jitted(epoch, config.devices, donate_argnums=(0,))


def make_part(
    network: Network,
    config: Config,
    tx: optax.GradientTransformation,
    examples: int,
    batch: int,
    savings: Savings = NOTHING,
) -> Callable:
    """`part(state, tally, images, labels, given, rows, steps) -> (state, tally)`, to be compiled.

    Some steps of an epoch, going on from a tally; `images`, `labels` and `rows` may be of fewer
    examples than the training set has. The rest is as in `make_epoch`.
    """
    take = make_one_step(network, config, tx, examples, batch, savings)

    def part(state: TrainState, tally: Tally, images, labels, given, rows, steps):
        def body(i, carry):
            return take(*carry, images, labels, given, rows, i)

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
    """`take(state, tally, images, labels, given, rows, i) -> (state, tally)`, to be compiled.

    Step `i`, i32[], of an epoch that takes its examples in the order `rows`, i32[examples]. A loop
    on the host over it does what `make_epoch` does in one program; XLA on a CPU runs convolutions
    several times slower inside a loop than outside.
    """
    step = make_step(network, config, tx, examples, savings)

    def take(state: TrainState, tally: Tally, images, labels, given, rows, i):
        here = jax.lax.dynamic_slice_in_dim(rows, i * batch, batch)
        return step(state, tally, Examples(images, labels, here), given)

    return take


def empty_tally(state: TrainState) -> Tally:
    """The tally before the first step."""
    counts = {name: jnp.zeros(mask.shape, jnp.int32) for name, mask in state.masks.items()}
    sums = (jnp.zeros((), jnp.float32) for _ in range(3))  # buffers of their own, to be donated
    return Tally(counts, *sums, jnp.zeros((), jnp.int32))


def make_evaluation(network: Network, chunk: int, over: int = 1) -> Callable:
    """`evaluate(variables, gates, masks, images, labels, i) -> (confusion, loss)`, jitted.

    Examples i * chunk to (i + 1) * chunk: `confusion` is i32[classes, classes], labels by row and
    predictions by column; `loss` the sum of the cross-entropies. The last chunk is padded, and what
    was padded weighs nothing, as do examples with a label of -1. Gates have their deterministic
    values. A chunk is spread `over` so many devices, which divide it.
    """
    spread = devices.spreading(over)
    apply = gated(network.evaluate, network.groups)
    classes = network.spec.num_classes

    def evaluate(variables, gates, masks, images, labels, i):
        z = {name: masks[name] * hard_concrete.mean(value) for name, value in gates.items()}
        rows = i * chunk + jnp.arange(chunk)
        inside = rows < len(labels)
        rows = jnp.minimum(rows, len(labels) - 1)
        here, truth = spread((images[rows], labels[rows]))
        weight = inside & (truth >= 0)
        logits = apply(variables, z, here)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, truth)
        hits = (truth, jnp.argmax(logits, -1))
        confusion = jnp.zeros((classes, classes), jnp.int32).at[hits].add(weight.astype(jnp.int32))
        return confusion, jnp.sum(jnp.where(weight, losses, 0.0))

    return devices.jitted(evaluate, over)
