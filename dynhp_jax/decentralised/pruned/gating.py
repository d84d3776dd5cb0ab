"""Gates on a node's units, as a part of its model: drawn in training, settled in evaluation.

Weights and gates are one collection of parameters, so that a node trains them as it trains any
network; which units it has is a collection that nothing changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.gates import hard_concrete
from dynhp_jax.gates.gated import gated
from dynhp_jax.gates.penalty import CONVENTIONS, gate_penalty
from dynhp_jax.training.network import Network
from dynhp_jax.training.own_model import Functions

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Gating:
    """How hard-concrete gates are trained, and from when units go.

    Attributes:
      lam: price of open gates, see `gate_penalty`; divided by the node's own examples.
      convention: what the price multiplies.
      gamma: units whose gates are open with a smaller probability go.
      open_rate: one minus the drop rate at the start.
      learning_rate: of Adam, by which the gates are trained.
      most_open: bound on one minus the drop rate; 1 for none to speak of.
    """

    lam: float = 0.1
    convention: str = "amlab"
    gamma: float = 0.5
    open_rate: float = 0.8
    learning_rate: float = 0.03
    most_open: float = 1.0

    def __post_init__(self):
        if self.convention not in CONVENTIONS:
            raise UserError(
                f"the convention is {self.convention!r}; allowed: {', '.join(CONVENTIONS)}"
            )
        for name, low, high in (("lam", 0, 1e30), ("gamma", 0, 1), ("open_rate", 1e-6, 1 - 1e-6),
                                ("learning_rate", 1e-30, 1e30), ("most_open", 0.1, 1)):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"gating.{name} is {value!r}; allowed: {low:g} to {high:g}")

    def optimizer(self, of_weights: optax.GradientTransformation) -> Any:
        """The optimizer of {'weights', 'log_alpha'}."""
        bounded = optax.stateless(
            lambda updates, params: jax.tree.map(
                lambda change, value: hard_concrete.clamp(value + change, self.most_open) - value,
                updates,
                params,
            )
        )
        of_gates = optax.chain(optax.adam(self.learning_rate), bounded)
        return optax.multi_transform(
            {"weights": of_weights, "gates": of_gates}, {"weights": "weights", "log_alpha": "gates"}
        )


class Units(NamedTuple):
    """Which units the arrays of a node have; a collection of its variables.

    Attributes:
      alive: {group: f32[units]}, one for a unit of its own, zero for one that only fills up.
      number: {group: i32[units]}, among all units.
      price: {group: f32[units]}, of an open gate; {} without gates.
      inputs: {path: {axis: i32[positions]}} of inputs that lost some.
    """

    alive: dict[str, Array]
    number: dict[str, Array]
    price: dict[str, Array]
    inputs: dict[str, dict[int, Array]]


def functions_of(network: Network, sizes: Mapping[str, int], has_gates: bool) -> Functions:
    """A node's model: `network` of its arrays' sizes, with gates on its units.

    Its variables are {'params': {'weights', 'log_alpha'}, 'units': Units, and those collections of
    the network that are no parameters}.

    Args:
      network: of these sizes.
      sizes: of the whole network's groups.
      has_gates: whether units have gates; without them only dead ones are shut.
    """
    train, evaluate = (gated(each, network.groups) for each in (network.train, network.evaluate))

    def own(variables):
        others = {name: each for name, each in variables.items() if name not in _OURS}
        return {**others, "params": variables["params"]["weights"]}

    def drawn(variables, key):
        units = variables["units"]
        if not has_gates:
            return units.alive
        return {
            name: units.alive[name]
            * hard_concrete.sample(
                key_for(key, name), value, units=units.number[name], of=sizes[name]
            )
            for name, value in variables["params"]["log_alpha"].items()
        }

    def in_training(variables, inputs, key):
        gates_key, model_key = jax.random.split(key)
        z, inputs = drawn(variables, gates_key), _taken(inputs, variables["units"].inputs)
        return train(own(variables), z, inputs, model_key if network.model.draws else ())

    def in_evaluation(variables, inputs):
        z = settled(variables["params"]["log_alpha"], variables["units"].alive, has_gates)
        return evaluate(own(variables), z, _taken(inputs, variables["units"].inputs))

    return Functions(in_evaluation, in_training, True)


_OURS = ("params", "units")


def settled(
    log_alpha: Mapping[str, Array], alive: Mapping[str, Array], has_gates: bool = True
) -> dict[str, Array]:
    """The gates of evaluation, {group: f32[units]}."""
    if not has_gates:
        return dict(alive)
    return {name: hard_concrete.mean(log_alpha[name]) * mask for name, mask in alive.items()}


def price(variables: Any) -> Array:
    """The price of a node's open gates, f32[]."""
    units = variables["units"]
    return gate_penalty(variables["params"]["log_alpha"], units.price, units.alive, 1.0, 1)


def _taken(inputs: Any, positions: dict[str, dict[int, Array]]) -> Any:
    """The inputs that are left of whole ones."""

    def one(path, leaf):
        name = path_name((jax.tree_util.SequenceKey(0), *path))
        for axis, kept in positions.get(f"inputs/{name}", {}).items():
            leaf = jnp.take(leaf, kept, axis)
        return leaf

    return jax.tree_util.tree_map_with_path(one, inputs)
