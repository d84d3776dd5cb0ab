"""One step of training, an epoch as one compiled function, and evaluation.

Everything in this file is a pure function of pytrees; the arrays are those of `state`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.batch_size.variance import squared_norm
from dynhp_jax.gates import activity, hard_concrete
from dynhp_jax.training.batch_rule import reads_squared_norm
from dynhp_jax.training.config import Config
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import augmentation, devices, weight_mean
from dynhp_jax.training.step.gradients import make_gradients
from dynhp_jax.training.step.input_noise import make_perturb
from dynhp_jax.training.step.objective import Constants, Examples
from dynhp_jax.training.step.setup import Setup
from dynhp_jax.training.step.state import Means, StepInputs, Tally, TrainState

Array = jax.Array


def make_step(setup: Setup) -> Callable:
    """One update.

    Returns:
      `step(state, tally, examples, given) -> (state, tally)` for one mini-batch, the
      `objective.Examples`; see `StepInputs`.
    """
    network, config, tx, extension = setup.network, setup.config, setup.tx, setup.network.extension
    gradients = make_gradients(setup)
    draw = make_draw(network, config)
    perturb = make_perturb(network, config.data.noise)
    view = augmentation.make_view(network.example_shape, config.data)
    annealed = config.optimizer.schedule != "constant" or config.optimizer.warmup > 0
    reads_norm = reads_squared_norm(config)

    def step(state: TrainState, tally: Tally, examples: Examples, given: StepInputs):
        kept = {name: value for name, value in state.variables.items() if name != "params"}
        trained = {"params": extension.trained(state.variables, state.own), "gates": state.gates}

        def z_of(gates):
            return draw(gates, state.masks, given, state.step, len(examples.rows))

        if view is not None:
            moves = jax.random.fold_in(given.input_moves, state.step)
            examples = examples._replace(
                view=lambda images, rows, first: view(images, rows, given.places, moves, first)
            )
        if config.data.noise:
            key = jax.random.fold_in(given.input_noise, state.step)
            examples = examples._replace(
                perturb=lambda images, first: perturb(images, key, given.units, first)
            )
        draws = jax.random.fold_in(given.draws, state.step) if network.model.draws else ()
        fixed = Constants(
            kept, state.variables["params"], state.masks, given.prices, given.lam, state.averages,
            given.teaching, draws, state.own,
        )  # fmt: skip
        grads, found = gradients(trained, fixed, z_of, examples)
        seen_by_optimizer = extension.gradients(grads["params"], state.own)
        # All gradients are done before the optimizer starts: activations are gone by then, and XLA
        # writes the new moments over the old ones, of which it otherwise keeps a copy.
        passed_on = jax.lax.optimization_barrier({**grads, "params": seen_by_optimizer})
        change, opt_state = tx.update(passed_on, state.opt_state, trained)
        if annealed:
            change = jax.tree.map(lambda update: given.rate * update, change)
        variables, own = extension.updated(
            {**state.variables, **found.updates}, state.own, trained["params"], change["params"]
        )
        own = extension.observe(own, grads["params"])
        gates = state.gates
        if config.gated:
            most_open, moved = config.gates.most_open, optax.apply_updates(gates, change["gates"])
            gates = {name: hard_concrete.clamp(gate, most_open) for name, gate in moved.items()}
        averages = state.averages
        if averages:
            mine = extension.averaged(own)
            averages = weight_mean.moved(averages, variables, gates, given.forgetting, mine)
        state = TrainState(
            step=state.step + 1,
            variables=variables,
            gates=gates,
            masks=state.masks,
            opt_state=opt_state,
            means=smooth(
                state.means,
                Means(
                    1.0,
                    found.grad_variance,
                    found.loss,
                    found.data_loss,
                    squared_norm(grads["params"]) if reads_norm else (),
                ),  # fmt: skip
                config,
            ),
            averages=averages,
            own=own,
        )
        z = found.z
        if examples.count is not None and config.gates.per_example:
            z = {name: jnp.where(examples.valid[:, None], gate, 0.0) for name, gate in z.items()}
        seen = Tally(
            counts=activity.observe(tally.counts, z, state.masks),
            loss=tally.loss + found.loss,
            data_loss=tally.data_loss + found.data_loss,
            penalty=tally.penalty + found.penalty,
            metrics=jax.tree.map(jnp.add, tally.metrics, found.metrics),
        )
        # Under jax_enable_x64 sums come out wider than the loop was started with.
        return state, jax.tree.map(lambda old, new: new.astype(old.dtype), tally, seen)

    return step


def make_draw(network: Network, config: Config) -> Callable:
    """`draw(gates, masks, given, step, batch) -> z`: of living units, 0 for those of dead ones."""
    names, spread = list(network.groups), devices.spreading(config.devices)

    def draw(gates, masks, given: StepInputs, step, batch):
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
