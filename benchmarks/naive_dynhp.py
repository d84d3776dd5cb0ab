"""Dynamic hard pruning as one writes it in JAX when compiling costs nothing: the naive peer.

The method is that of the library, in plain functions for one multilayer perceptron. An epoch is one
jitted `lax.scan`; after it, every array is cut to the units that are left, and the mini-batch is
the rule's exact number. So jit compiles again whenever a unit dies or the mini-batch grows.

It is written as well as this allows: the state is donated, examples are gathered on the device, and
nothing is read back within an epoch. The variance of the gradients is found by `vmap` over
`jax.grad`, whose mean is the gradient, so that there is no second backward pass; or (`outer`) from
the outer products that the gradients of a dense layer are, which has to be written for every kind
of layer by hand.

Sources: Louizos et al. 2018 (gates, penalty), Valerio et al. 2020 (pruning, batch rule), Balles et
al. 2017 (variance).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.training import config as library

TEMPERATURE, LOW, HIGH, EPS = 2 / 3, -0.1, 1.1, 1e-6


class State(NamedTuple):
    """`layers`: of each, kernel f32[in, out], bias f32[out], log_alpha f32[in] of its inputs."""

    step: Any
    layers: list[dict[str, Any]]
    opt_state: Any
    means: Any  # running means of 1, ||S||_1 and the loss, f32[3]


def start(key, widths, learning_rate) -> State:
    layers = []
    for k, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        of_kernel, of_gates = jax.random.split(jax.random.fold_in(key, k))
        centre = math.log(4.0) if k == 0 else 0.0  # drop rates of 0.2 and 0.5
        layers.append(
            {
                "kernel": math.sqrt(2 / inputs) * jax.random.normal(of_kernel, (inputs, outputs)),
                "bias": jnp.zeros(outputs),
                "log_alpha": centre + 0.01 * jax.random.normal(of_gates, (inputs,)),
            }
        )
    return State(
        jnp.zeros((), jnp.int32), layers, optax.adam(learning_rate).init(layers), jnp.zeros(3)
    )


def noise(key, step, shapes):
    """Uniforms for the gates of every layer, in one draw."""
    total = sum(shapes)
    u = jax.random.uniform(jax.random.fold_in(key, step), (total,), minval=EPS, maxval=1 - EPS)
    return jnp.split(u, np.cumsum(shapes)[:-1])


def gate(u, log_alpha):
    s = jax.nn.sigmoid((jnp.log(u) - jnp.log(1 - u) + log_alpha) / TEMPERATURE)
    return jnp.clip(s * (HIGH - LOW) + LOW, 0, 1)


def mean_gate(log_alpha):
    return jnp.clip(jax.nn.sigmoid(log_alpha) * (HIGH - LOW) + LOW, 0, 1)


def penalty(layers, lam, examples):
    def of(layer):
        shifted = layer["log_alpha"] - TEMPERATURE * math.log(-LOW / HIGH)
        opened = jnp.clip(jax.nn.sigmoid(shifted), EPS, 1 - EPS)
        return layer["kernel"].shape[1] * jnp.sum(opened)

    return lam / examples * sum(map(of, layers))


def logits_of(layers, zs, x, probes=None):
    """Logits, and the gated inputs of every layer; probes are added before the activations."""
    inputs = []
    for k, (layer, z) in enumerate(zip(layers, zs, strict=True)):
        inputs.append((x if k == 0 else jax.nn.relu(x)) * z)
        x = inputs[-1] @ layer["kernel"] + layer["bias"]
        x = x if probes is None else x + probes[k]
    return x, inputs


def squared_norm(grads):
    return sum(jnp.sum(grad[name] ** 2) for grad in grads for name in ("kernel", "bias"))


def by_vmap(layers, us, x, y):
    """(mean cross-entropy, its gradient, ||S||_1), every example's gradient at hand."""

    def loss(layers, x, y):
        zs = [gate(u, layer["log_alpha"]) for u, layer in zip(us, layers, strict=True)]
        return optax.softmax_cross_entropy_with_integer_labels(logits_of(layers, zs, x)[0], y)

    losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(layers, x, y)
    mean = jax.tree.map(lambda g: g.mean(0), grads)
    return losses.mean(), mean, jnp.maximum(squared_norm(grads) / len(y) - squared_norm(mean), 0)


def by_outer_products(layers, us, x, y):
    """The same; an example's gradient of a kernel is its input times its error, never made."""

    def loss(layers, probes):
        zs = [gate(u, layer["log_alpha"]) for u, layer in zip(us, layers, strict=True)]
        logits, inputs = logits_of(layers, zs, x, probes)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), inputs

    probes = [jnp.zeros((len(y), layer["bias"].size)) for layer in layers]
    (value, inputs), (mean, errors) = jax.value_and_grad(loss, (0, 1), has_aux=True)(layers, probes)
    squares = sum(
        len(y) * jnp.vdot(jnp.sum(a**2, 1) + 1, jnp.sum(e**2, 1))
        for a, e in zip(inputs, errors, strict=True)
    )
    return value, mean, jnp.maximum(squares - squared_norm(mean), 0)


GRADIENTS = {"vmap": by_vmap, "outer": by_outer_products}


def make_epoch(lam, examples, learning_rate, kind="vmap", draw=noise):
    """`epoch(state, images, labels, rows, key) -> (state, counts, sums)`; rows i32[steps, batch].

    `sums` holds the sums over the steps of cross-entropy and penalty.
    """
    tx = optax.adam(learning_rate)

    def step(carry, rows, images, labels, key):
        state, counts, sums = carry
        layers = state.layers
        us = draw(key, state.step, [layer["log_alpha"].size for layer in layers])
        zs = [gate(u, layer["log_alpha"]) for u, layer in zip(us, layers, strict=True)]
        loss, grads, variance = GRADIENTS[kind](layers, us, images[rows], labels[rows])
        price, of_price = jax.value_and_grad(penalty)(layers, lam, examples)
        grads = jax.tree.map(jnp.add, grads, of_price)
        updates, opt_state = tx.update(grads, state.opt_state, layers)
        layers = [
            {**layer, "log_alpha": jnp.clip(layer["log_alpha"], math.log(0.01), math.log(100))}
            for layer in optax.apply_updates(layers, updates)
        ]
        means = 0.95 * state.means + 0.05 * jnp.stack([jnp.ones(()), variance, loss + price])
        counts = [count + (z > 0) for count, z in zip(counts, zs, strict=True)]
        state = State(state.step + 1, layers, opt_state, means)
        return (state, counts, sums + jnp.stack([loss, price])), None

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, images, labels, rows, key):
        counts = [jnp.zeros(layer["log_alpha"].shape, jnp.int32) for layer in state.layers]
        one = functools.partial(step, images=images, labels=labels, key=key)
        return jax.lax.scan(one, (state, counts, jnp.zeros(2)), rows)[0]

    return epoch


@jax.jit
def wrong(layers, images, labels):
    """How many examples the network with its gates at their deterministic values gets wrong."""
    zs = [mean_gate(layer["log_alpha"]) for layer in layers]
    return jnp.sum(jnp.argmax(logits_of(layers, zs, images)[0], 1) != labels)


def keeps_of(counts, steps, gamma) -> list[np.ndarray]:
    """Of every layer the inputs that were open often enough, or else the one that was most."""
    keeps = []
    for count in counts:
        rates = np.asarray(count, np.float64) / steps
        kept = np.flatnonzero(rates >= gamma)
        keeps.append(kept if kept.size else np.array([rates.argmax()]))
    return keeps


def cut(state: State, keeps: list[np.ndarray]) -> State:
    """Everything that belongs to a unit that is gone, out of all arrays; on the host."""

    def layers_of(layers):
        outs = [*keeps[1:], slice(None)]
        return [
            {
                "kernel": layer["kernel"][kept][:, out],
                "bias": layer["bias"][out],
                "log_alpha": layer["log_alpha"][kept],
            }
            for layer, kept, out in zip(layers, keeps, outs, strict=True)
        ]

    state = jax.device_get(state)
    adam, rest = state.opt_state[0], state.opt_state[1:]
    adam = adam._replace(mu=layers_of(adam.mu), nu=layers_of(adam.nu))
    return jax.device_put(state._replace(layers=layers_of(state.layers), opt_state=(adam, *rest)))


KNOWN = {  # where the library offers more than this file does
    "method": "dynhp",
    "model.name": "mlp",
    "gates.per_example": False,
    "gates.inputs": True,
    "gates.open_input": 0.8,
    "gates.open_hidden": 0.5,
    "gates.learning_rate": 0.0,
    "penalty.convention": "amlab",
    "penalty.l2": 0.0,
    "pruning.groups": (),
    "batch.rule": "method",
    "batch.loss": "total",
    "batch.decay": 0.95,
    "memory.meter": "paper",
    "memory.budget": "sp",
    "optimizer.name": "adam",
}


def check(config: library.Config) -> None:
    fields = library.flatten(config)
    for name, known in KNOWN.items():
        if fields[name] != known:
            raise ConfigError(name, fields[name], f"{known!r} beside the naive peer")


class Run:
    """A run on a data set, by the fields of the library's config that this file knows.

    Args:
      config: of the library; 'dynhp' on an MLP, one draw of the gates per mini-batch.
      dataset: with x_train, y_train, x_test, y_test.
      kind: how the variance is found, 'vmap' or 'outer'.
      draw: uniforms for the gates, as `noise` draws them.

    Raises:
      ConfigError: a field asks for what this file does not do.
    """

    def __init__(self, config: library.Config, dataset, kind: str = "vmap", draw=noise):
        check(config)
        self.config = config
        first, self.for_gates, self.for_order = jax.random.split(jax.random.key(config.seed), 3)
        flat = (len(dataset.x_train), -1), (len(dataset.x_test), -1)
        self.train = jnp.asarray(dataset.x_train.reshape(flat[0])), jnp.asarray(dataset.y_train)
        self.test = jnp.asarray(dataset.x_test.reshape(flat[1])), jnp.asarray(dataset.y_test)
        self.examples, self.features = self.train[0].shape
        rate = config.optimizer.learning_rate
        widths = (self.features, *config.model.hidden, dataset.num_classes)
        self.state = start(first, widths, rate)
        self.epoch, self.batch = 0, config.batching.size
        self.budget = 4 * self.parameters + 4 * self.features * config.memory.sp_batch
        self.run_epoch = make_epoch(config.penalty.lam, self.examples, rate, kind, draw)

    @property
    def parameters(self) -> int:
        return sum(layer["kernel"].size + layer["bias"].size for layer in self.state.layers)

    def order(self, epoch: int):
        return jax.random.permutation(jax.random.fold_in(self.for_order, epoch), self.examples)

    def cut(self, keeps: list[np.ndarray]) -> None:
        """Takes the units that are left, of the layers and of the data."""
        self.state = cut(self.state, keeps)
        if keeps[0].size < self.train[0].shape[1]:
            self.train = jnp.take(self.train[0], keeps[0], axis=1), self.train[1]
            self.test = jnp.take(self.test[0], keeps[0], axis=1), self.test[1]

    def advance(self) -> dict[str, Any]:
        """One epoch; what it says has the names of the library's records."""
        config, batch = self.config, self.batch
        self.epoch += 1
        steps = self.examples // batch
        rows = self.order(self.epoch)[: steps * batch].reshape(steps, batch)
        self.state, counts, sums = self.run_epoch(self.state, *self.train, rows, self.for_gates)
        cross_entropy, price = np.asarray(sums, np.float64) / steps
        before = [layer["log_alpha"].size for layer in self.state.layers]
        keeps = keeps_of(jax.device_get(counts), steps, config.pruning.gamma)
        if [kept.size for kept in keeps] != before:
            self.cut(keeps)
        error = 100 * int(wrong(self.state.layers, *self.test)) / len(self.test[1])
        _, variance, loss = np.asarray(self.state.means, np.float64)
        room = (self.budget - 4 * self.parameters) // (4 * self.features)
        growth = math.floor((1 - config.batch.alpha) * variance / loss)
        self.batch = min(batch + growth, room, self.examples)
        return {
            "epoch": self.epoch,
            "cross_entropy": cross_entropy,
            "penalty": price,
            "test_error": error,
            "units": [kept.size for kept in keeps],
            "parameters": self.parameters,
            "model_kib": 4 * self.parameters / 1024,
            "batch_size": batch,
            "next_batch": self.batch,
        }
