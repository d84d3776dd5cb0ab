"""Rounds of a small network in NumPy and float64, node by node and example by example."""

import jax
import numpy as np

from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised.local_training import shuffled


def weights_of(params):
    """float64 copies of one node's parameters."""
    return {name: np.array(value, np.float64) for name, value in params.items()}


def gradients(params, x, y):
    """Of the mean cross-entropy of relu(x a + b) c + d, and that mean."""
    hidden = x @ params["a"] + params["b"]
    active = np.maximum(hidden, 0)
    logits = active @ params["c"] + params["d"]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    back = (p @ params["c"].T) * (hidden > 0)
    return {"a": x.T @ back, "b": back.sum(0), "c": active.T @ p, "d": p.sum(0)}, loss


def orders(key, number, done, epochs, rows, count):
    """In which order a node sees its examples in each epoch of a round."""
    of_round = jax.random.fold_in(key_for(key, "train"), done)
    of_node = jax.random.fold_in(of_round, number)

    def order(epoch):
        return shuffled(jax.random.split(jax.random.fold_in(of_node, epoch))[0], rows, count)

    return [np.asarray(order(epoch))[: int(count)] for epoch in range(epochs)]


def train(params, x, y, seen, batch, rate, momentum):
    """The local epochs of a round: SGD whose velocity starts from zero, short last batches."""
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    losses = []
    for order in seen:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found, loss = gradients(params, x[rows], y[rows])
            losses.append(loss)
            for name in params:
                velocity[name] = momentum * velocity[name] + found[name]
                params = {**params, name: params[name] - rate * velocity[name]}
    return params, np.mean(losses) if losses else np.nan


def decavg(graph, sizes, everybody):
    """Every node's mean over itself and its neighbours, weighed by their examples; a new list."""
    found = []
    for i, mine in enumerate(everybody):
        members = [j for j in range(len(everybody)) if j == i or graph[i][j]]
        total = sum(sizes[j] for j in members)
        if not total:
            found.append(mine)
            continue
        found.append(
            {name: sum(sizes[j] * everybody[j][name] for j in members) / total for name in mine}
        )
    return found


def coverage(mixing, small, keeps, axes, units):
    """Every node's mean over those who have a number, of arrays that have the nodes' own sizes.

    Args:
      mixing: f64[nodes, nodes].
      small: each node's arrays.
      keeps: each node's units.
      axes: {array: the axis along which its units are}.
      units: of a whole network.
    """
    found = []
    for mine, keep in zip(small, keeps, strict=True):
        new = {}
        for name, value in mine.items():
            above, below = np.zeros_like(value), np.zeros_like(value)
            for weight, other, theirs in zip(mixing[len(found)], small, keeps, strict=True):
                arrived, has = other[name], np.ones_like(other[name])
                if name in axes:
                    place = [slice(None)] * value.ndim
                    place[axes[name]] = theirs
                    shape = list(value.shape)
                    shape[axes[name]] = units
                    scattered, covered = np.zeros(shape), np.zeros(shape)
                    scattered[tuple(place)], covered[tuple(place)] = arrived, has
                    arrived, has = (each.take(keep, axes[name]) for each in (scattered, covered))
                above += weight * arrived
                below += weight * has
            nobody = below == 0  # a relay's own unit: its weight in the mean is zero
            new[name] = np.where(nobody, value, above / np.where(nobody, 1, below))
        found.append(new)
    return found
