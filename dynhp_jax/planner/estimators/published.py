"""The paper's networks: an LSTM over the losses so far, and a regression of the jump of a change.

Source: Malandrino et al. 2023, section IV and figure 3. Run: an LSTM over all losses of the present
model beside a dense layer over (classes, samples, share pruned), then one dense layer with 15
outputs: mean, 0.05 and 0.95 quantile of the loss's change over each of the next 5 epochs. Change: a
network over the share pruned and the last 5 losses, with 3 outputs. Squared and pinball losses,
Adam of 0.001, mini-batches of 16; the widths are ours. They see the losses that were observed, so
they forecast from the present state alone; further ahead a Markov estimator goes on.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common.random_keys import key_for
from dynhp_jax.planner.estimators.estimator import Forecast, Jumping
from dynhp_jax.planner.estimators.power_law import QUANTILES
from dynhp_jax.planner.state import Stage, State, Trace
from dynhp_jax.planner.tables import Pair

AHEAD, LAST = 5, 5  # epochs that are forecast; losses that the jump depends on
_WIDTH, _BATCH, _RATE = 32, 16, 1e-3
_BELOW_MEAN = (1, 0, 2)  # from (mean, low, high) to (low, mean, high)


class RunNetwork(nn.Module):
    """Losses [batch, time], how many these are [batch], features [batch, 3] -> [batch, 5, 3]."""

    @nn.compact
    def __call__(self, losses: jax.Array, lengths: jax.Array, features: jax.Array) -> jax.Array:
        cell = nn.RNN(nn.OptimizedLSTMCell(_WIDTH), return_carry=True)
        (_, hidden), _ = cell(losses[..., None], seq_lengths=lengths)
        static = nn.relu(nn.Dense(_WIDTH)(features))
        joint = nn.relu(nn.Dense(_WIDTH)(jnp.concatenate([hidden, static], -1)))
        return nn.Dense(3 * AHEAD)(joint).reshape(-1, AHEAD, 3)


class ChangeNetwork(nn.Module):
    """Share pruned and the last losses f32[batch, 1 + 5] -> [batch, 3]."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(_WIDTH)(inputs))
        return nn.Dense(3)(nn.relu(nn.Dense(_WIDTH)(hidden)))


class Features(NamedTuple):
    """What a pair's forecasts depend on beside its losses.

    Attributes:
      classes, samples: of the data of its nodes.
      pruned: share of the whole network's parameters that its model lacks.
    """

    classes: int
    samples: int
    pruned: float

    @property
    def scaled(self) -> list[float]:
        """In the networks' units."""
        return [self.classes / 10, np.log10(self.samples) / 4, self.pruned]


class Observed(NamedTuple):
    """The carry of the present state: its losses, and the carry of the estimator further ahead."""

    stages: tuple[Stage, ...]
    beyond: Hashable


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """The trained networks; see `fit`.

    Attributes:
      run, change: their parameters.
      scales: standard deviations of the targets of each, by which outputs are multiplied.
      features: by pair.
      time: losses that the LSTM reads at most, the latest ones.
      beyond: the estimator for what lies further ahead.
    """

    run: Any
    change: Any
    scales: tuple[float, float]
    features: Mapping[Pair, Features]
    time: int
    beyond: Jumping

    def begin(self, state: State) -> Observed:
        """All losses so far."""
        return Observed(state.stages, self.beyond.begin(state))

    def jump(self, state: State, target: Pair) -> np.ndarray:
        """[low, expected, robust] losses right after a change, less the present one."""
        inputs = _change_inputs(self.features[target].pruned, state.stages[-1].losses)
        found = _change_forward(self.change, jnp.array([inputs]))
        return self.scales[1] * _rising(np.asarray(found[0], np.float64))

    def after(
        self, source: Pair, target: Pair, loss: float, carry: Any, epochs: np.ndarray
    ) -> Forecast:
        """As `Estimator.after`: the networks from the present state, the other one beyond."""
        if not isinstance(carry, Observed):
            return self.beyond.after(source, target, loss, carry, epochs)
        known = self.beyond.after(source, target, loss, carry.beyond, epochs)
        if not np.isfinite(known.expected).all():
            return known
        if source != target:
            return self._changed(source, target, loss, carry, epochs)
        ahead = np.asarray(epochs)
        change = self._running(carry.stages[-1], target)  # [3, 5]
        low, expected, robust = (
            np.where(ahead <= AHEAD, loss + each[np.minimum(ahead, AHEAD) - 1], 0.0)
            for each in change
        )
        later = np.flatnonzero(ahead > AHEAD)
        if len(later):
            ends = loss + change[:, -1]
            rest = ahead[later] - AHEAD
            parts = [
                self.beyond.after(target, target, max(end, 1e-6), carry.beyond, rest)
                for end in ends
            ]
            low[later], expected[later] = parts[0].low, parts[1].expected
            robust[later] = parts[2].robust
        return Forecast(expected, np.maximum(robust, expected), known.carries, low)

    def _running(self, stage: Stage, pair: Pair) -> np.ndarray:
        losses, length = _padded(stage.losses, self.time)
        features = jnp.array([self.features[pair].scaled])
        found = _run_forward(self.run, jnp.array([losses]), jnp.array([length]), features)
        return self.scales[0] * _rising(np.asarray(found[0], np.float64)).T

    def _changed(self, source, target, loss, carry: Observed, epochs) -> Forecast:
        """The jump by the network; the epochs after it by the other estimator."""
        jumps = self.jump(State(carry.stages), target)
        plain = self.beyond.jump(State(carry.stages), target)
        parts = [
            self.beyond.after(source, target, max(each, 1e-6), carry.beyond, epochs)
            for each in loss + jumps - plain[1]  # less the jump that the other one adds
        ]
        robust = np.maximum(parts[2].robust, parts[1].expected)
        return Forecast(parts[1].expected, robust, parts[1].carries, parts[0].low)


def fit(
    traces: Sequence[Trace],
    features: Mapping[Pair, Features],
    beyond: Jumping,
    seed: int = 0,
    steps: int = 3_000,
) -> Published:
    """Trains both networks on recorded trainings.

    Args:
      traces: of one seed or more.
      features: of every pair in them.
      beyond: the estimator for what lies further ahead, with a `jump`.
      seed: of weights and mini-batches.
      steps: of each network.
    """
    time = max(len(stage.losses) for trace in traces for stage in trace.stages)
    run, change = _run_examples(traces, features, time), _change_examples(traces, features)
    key = jax.random.key(seed)
    parts, scales = [], []
    for name, network, (inputs, targets) in (
        ("run", RunNetwork(), run),
        ("change", ChangeNetwork(), change),
    ):
        seen = np.isfinite(targets)
        scale = float(targets[seen].std()) or 1.0
        parts.append(_trained(network, inputs, targets / scale, key_for(key, name), steps))
        scales.append(scale)
    return Published(*parts, tuple(scales), dict(features), time, beyond)


def _padded(losses: Sequence[float], time: int) -> tuple[np.ndarray, int]:
    some = np.asarray(losses[-time:], np.float32)
    return np.pad(some, (0, time - len(some))), len(some)


def _change_inputs(pruned: float, losses: Sequence[float]) -> np.ndarray:
    last = list(losses[-LAST:])
    return np.array([pruned, *[last[0]] * (LAST - len(last)), *last], np.float32)


def _run_examples(traces, features, time):
    """((losses, lengths, features), targets [examples, 5], NaN behind the end of a stage)."""
    found = {}
    for stage in (stage for trace in traces for stage in trace.stages):
        for place in range(1, len(stage.losses)):
            later = np.array(stage.losses[place : place + AHEAD]) - stage.losses[place - 1]
            later = np.pad(later, (0, AHEAD - len(later)), constant_values=np.nan)
            here = stage.losses[:place]
            found[stage.pair, here] = (
                *_padded(here, time), features[stage.pair].scaled, later,
            )  # fmt: skip
    losses, lengths, static, targets = (
        np.array(each) for each in zip(*found.values(), strict=True)
    )
    return (losses, lengths.astype(np.int32), static.astype(np.float32)), targets


def _change_examples(traces, features):
    found = {}
    for trace in traces:
        for one, two in zip(trace.stages, trace.stages[1:], strict=False):
            inputs = _change_inputs(features[two.pair].pruned, one.losses)
            found[one.losses, two.pair] = inputs, two.losses[0] - one.losses[-1]
    inputs, targets = (np.array(each) for each in zip(*found.values(), strict=True))
    return (inputs,), targets


def _trained(network: nn.Module, inputs: tuple, targets: np.ndarray, key: Any, steps: int) -> Any:
    """Parameters after so many steps of Adam, one compiled loop."""
    first, drawn = jax.random.split(key)
    data, aims = tuple(map(jnp.asarray, inputs)), jnp.asarray(targets, jnp.float32)
    variables = network.init(first, *(each[:1] for each in data))
    tx = optax.adam(_RATE)

    def loss(variables, rows):
        found = network.apply(variables, *(each[rows] for each in data))
        seen = jnp.isfinite(aims[rows])
        error = jnp.where(seen, aims[rows], 0.0)[..., None] - found
        pinball = [
            jnp.maximum(q * error[..., 1 + n], (q - 1) * error[..., 1 + n])
            for n, q in enumerate(QUANTILES)
        ]
        each = error[..., 0] ** 2 + sum(pinball)
        return jnp.sum(jnp.where(seen, each, 0.0)) / jnp.maximum(jnp.sum(seen), 1)

    def step(carry, key):
        variables, state = carry
        rows = jax.random.randint(key, (min(_BATCH, len(aims)),), 0, len(aims))
        change, state = tx.update(jax.grad(loss)(variables, rows), state, variables)
        return (optax.apply_updates(variables, change), state), None

    @jax.jit
    def train(variables):
        keys = jax.random.split(drawn, steps)
        return jax.lax.scan(step, (variables, tx.init(variables)), keys)[0][0]

    return train(variables)


def _rising(values: np.ndarray) -> np.ndarray:
    """(low, expected, robust) along the last axis, not crossing."""
    low, mean, high = np.moveaxis(values[..., list(_BELOW_MEAN)], -1, 0)
    return np.stack([np.minimum(low, mean), mean, np.maximum(high, mean)], -1)


@jax.jit
def _run_forward(variables, losses, lengths, features):
    return RunNetwork().apply(variables, losses, lengths, features)


@jax.jit
def _change_forward(variables, inputs):
    return ChangeNetwork().apply(variables, inputs)
