"""The penalty of gates and weights: L0 by the probability that a gate is open, L2 beside it.

Source: Louizos, Welling and Kingma 2018, Eq. 4 and 12, and their code; Valerio et al. 2020, Eq. 5.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import ArgumentError
from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.gates.hard_concrete import prob_open
from dynhp_jax.structure.counts import alive_positions, fan_out, in_float64, parameters_held
from dynhp_jax.structure.group import Member
from dynhp_jax.structure.groups import Groups

CONVENTIONS = ("amlab", "parameters", "literal", "per_gate")


def gate_penalty(
    log_alpha: Mapping[str, jax.Array],
    counts: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array],
    lam: float | jax.Array,
    num_examples: int,
    convention: str = "amlab",
    l2: float = 0.0,
    weight_squares: Mapping[str, jax.Array] | None = None,
    bias_squares: jax.Array | float = 0.0,
) -> jax.Array:
    """The price of open gates, to be added to the mean loss of a mini-batch.

    With P_j the probability that gate j is open and n_j the number of surviving weights that read
    its unit, lambda means:

    - 'amlab': the price of one weight, spread over the training set: lambda / N x sum_j P_j n_j.
      Louizos et al. use 0.1 for the 784-300-100-10 MLP on MNIST.
    - 'parameters': the same with n_j the number of surviving parameters that go with the unit: also
      those that make it, and its bias. What a unit costs is then what its removal saves.
    - 'literal': the price of one weight, undivided: lambda x sum_j P_j n_j, as Eq. 5 of Valerio et
      al. is printed. It is N times stronger: 0.01 x 266,200 weights outweighs any cross-entropy.
    - 'per_gate': the price of one gate, whatever its fan-out: lambda x sum_j P_j.

    In all of them the L2 term is AMLab's: l2 / (2 N) x (sum_j P_j sum_k W_jk^2 + sum of bias^2).

    Args:
      log_alpha: {group: [units]}.
      counts: {group: [units]}, n_j: `groups.fan_out`, or with the convention 'parameters'
        `groups.parameters_held`.
      masks: {group: [units]}, 1 for surviving units and 0 for dead ones, which cost nothing.
      lam: price as above, not negative; may be traced.
      num_examples: N, the size of the training set.
      convention: one of 'amlab', 'parameters', 'literal', 'per_gate'.
      l2: precision rho of the Gaussian prior on the weights; the only way by which the penalty has
        a gradient with respect to weights.
      weight_squares: {group: [units]}, sum of squares of the weights that read each unit; needed
        when `l2` is not 0.
      bias_squares: sum of squares of all biases, scalar.

    Returns:
      A scalar.

    Raises:
      ArgumentError: an unknown convention, a negative or infinite `lam` or `l2`.
      ValueError: `num_examples` below 1, or `l2` given without `weight_squares`.
    """
    if convention not in CONVENTIONS:
        raise ArgumentError("convention", convention, ", ".join(map(repr, CONVENTIONS)))
    for name, value in (("lam", lam), ("l2", l2)):
        if not isinstance(value, jax.Array) and not 0 <= value < math.inf:
            raise ArgumentError(name, value, "a number that is 0 or above")
    if num_examples < 1:
        raise ValueError(f"num_examples is {num_examples}; it must be at least 1")
    if l2 and weight_squares is None:
        raise ValueError("l2 is not 0: give weight_squares, {group: [units]}")

    probability = {name: prob_open(value) * masks[name] for name, value in log_alpha.items()}
    prices = {name: jnp.ones_like(p) for name, p in probability.items()}
    if convention != "per_gate":
        prices = counts
    scale = lam / num_examples if convention in ("amlab", "parameters") else lam
    total = scale * sum(jnp.vdot(p, prices[name]) for name, p in probability.items())
    if l2:
        squares = sum(jnp.vdot(p, weight_squares[name]) for name, p in probability.items())
        total = total + 0.5 * l2 / num_examples * (squares + bias_squares)
    return total


def squares_of(groups: Groups, params: Any, alive: dict[str, jax.Array]) -> tuple[dict, jax.Array]:
    """What the L2 term of the penalty weighs, dead units left out.

    Args:
      groups: over {'params': ...}.
      params: the collection 'params'.
      alive: {group: 0/1 [units]}.

    Returns:
      ({group: f32[units], sum of squares of the weights that read each unit}, sum of squares of
      all other numbers: biases, and weights that read nothing gated).
    """
    read: dict[str, jax.Array] = {}
    other = jnp.zeros(())
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params}):
        path, squares = path_name(path), jnp.square(leaf)
        for axis in range(leaf.ndim):
            squares = squares * _along(axis, alive_positions(groups, path, axis, alive), leaf.ndim)
        readers = [(g.name, m) for g in groups.values() for m in g.members
                   if m.path == path and m.role == "in"]  # fmt: skip
        for name, member in readers:
            by_position = jnp.sum(squares, [d for d in range(leaf.ndim) if d != member.axis])
            read[name] = read.get(name, 0.0) + jnp.sum(by_position[member.index], axis=1)
        # A concatenation's reader has rows that no gated unit is behind.
        unread = _unread(leaf.shape, [member for _, member in readers])
        if all(positions.any() for positions in unread.values()):
            for axis, positions in unread.items():
                squares = squares * _along(axis, positions, leaf.ndim)
            other = other + jnp.sum(squares)
    return read, other


def _along(axis: int, values: Any, ndim: int) -> jax.Array:
    """Values of one axis, to be broadcast against an array of `ndim` axes."""
    return jnp.expand_dims(values, [other for other in range(ndim) if other != axis])


def _unread(shape: tuple[int, ...], readers: Sequence[Member]) -> dict[int, np.ndarray]:
    """{axis: bool[size]} of the axes that some member lies on: the positions that none takes."""
    unread = {member.axis: np.ones(shape[member.axis], bool) for member in readers}
    for member in readers:
        unread[member.axis][member.index.ravel()] = False
    return unread


def prices_of(
    groups: Groups, masks: Mapping[str, np.ndarray], convention: str
) -> dict[str, jax.Array]:
    """How many parameters the penalty holds against every gate, {group: f32[units]}.

    Args:
      groups: those that are gated.
      masks: of the surviving units, {group: f32[units]}, on the host.
      convention: of CONVENTIONS; by 'parameters' it is what a unit's removal saves, by the
        others the weights that read the unit.
    """
    count = parameters_held if convention == "parameters" else fan_out
    prices = count(groups, in_float64(masks))
    return {name: jnp.asarray(price, jnp.float32) for name, price in prices.items()}
