"""The compiled program of a size class: its nodes are taken out, trained, judged, and put back."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.decentralised.local_training import Examples, Learning, Node
from dynhp_jax.decentralised.pruned import gating
from dynhp_jax.decentralised.pruned.gating import Gating, Units, functions_of
from dynhp_jax.decentralised.pruned.size_classes import SizeClass
from dynhp_jax.decentralised.pruned.stacks import Positions, smaller, whole
from dynhp_jax.decentralised.rounds import nodes_at_once
from dynhp_jax.memory.compiled import compiled_bytes
from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.training.network import Network, batch_of

Array = jax.Array
Widths = tuple[tuple[str, int], ...]


class Weights(NamedTuple):
    """What all nodes train, in whole arrays with zeros where a node has nothing.

    Attributes:
      variables: {'params': ..., and other collections}, arrays [nodes, ...].
      log_alpha: {group: f32[nodes, units]}; {} without gates.
    """

    variables: dict[str, Any]
    log_alpha: dict[str, Array]


class Here(NamedTuple):
    """What a class has beside the weights.

    Attributes:
      places: i32[m], its nodes among all.
      node: of these, with a leading axis.
      units: of these; 'price' and the like of the class's widths.
      positions: of their variables in the whole ones.
      trains: bool[m].
    """

    places: Array
    node: Node
    units: Units
    positions: Positions
    trains: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The programs of nodes of all sizes; each is compiled once.

    Attributes:
      network: whole, with the groups that are pruned.
      gating: of the nodes; None for nodes without gates.
      tx: the optimizer of the weights.
      epochs, judged: see `Learning`.
      at_once: nodes computed together, see `Rounds`; None for what suits their size.
    """

    network: Network
    gating: Gating | None
    tx: optax.GradientTransformation
    epochs: int
    judged: int
    at_once: int | None = None

    @functools.cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def learning(self, widths: Widths, batch: int) -> Learning:
        """How a node of these sizes learns."""
        keeps = UnitKeeps({name: np.arange(width) for name, width in widths}, self.network.groups)
        part = self.network.part(keeps)
        sizes = {name: group.size for name, group in self.network.groups.items()}
        functions = functions_of(part, sizes, self.gating is not None)
        tx = self.tx
        if self.gating is not None:
            tx = self.gating.optimizer(tx)
        else:
            tx = optax.multi_transform(
                {"weights": tx}, {"weights": "weights", "log_alpha": "weights"}
            )
        price = gating.price if self.gating is not None else None
        return Learning(functions, part.task, tx, batch, self.epochs, self.judged, price)

    def of(self, each: SizeClass) -> Callable:
        """`advance(weights, here, key, data, count) -> (weights, loss [m], sums [m])`, jitted.

        The weights are donated. `key` is that of the round; `count`, i32[], is the number of test
        examples that the nodes are judged on.
        """
        known = ("program", each.widths, each.batch)
        if known not in self._known:
            learning = self.learning(each.widths, each.batch)
            program = functools.partial(_advance, learning, self.at_once)
            self._known[known] = jax.jit(program, donate_argnums=0)
        return self._known[known]

    @property
    def compiled(self) -> int:
        """How many programs of rounds there are so far."""
        return sum(name[0] == "program" for name in self._known)

    def step_bytes(self, widths: Widths, batch: int) -> int:
        """Bytes of a compiled training step of one node of really these sizes."""
        known = ("bytes", widths, batch)
        if known not in self._known:
            self._known[known] = self._measured(widths, batch)
        return self._known[known]

    def _measured(self, widths: Widths, batch: int) -> int:
        learning = self.learning(widths, batch)
        keeps = {name: np.arange(width) for name, width in widths}
        part = self.network.part(keeps)
        log_alpha, alive, number = (
            {name: jax.ShapeDtypeStruct((width,), kind) for name, width in widths}
            for kind in (jnp.float32, jnp.float32, jnp.int32)
        )
        shapes = part.model.shapes()
        params = {"weights": shapes["params"], "log_alpha": log_alpha if self.gating else {}}
        units = Units(alive, number, log_alpha if self.gating else {}, {})
        variables = {**shapes, "params": params, "units": units}
        carry = (variables, jax.eval_shape(learning.tx.init, params), jnp.float32(0))
        inputs, targets = (batch_of(each, batch) for each in (part.model.example, part.target))

        def step(carry, inputs, targets, counts, key):
            return learning.step(carry, inputs, targets, counts, (), key)

        some = jax.ShapeDtypeStruct((batch,), bool)
        lowered = jax.jit(step, donate_argnums=0).lower(
            carry, inputs, targets, some, jax.eval_shape(jax.random.key, 0)
        )
        return compiled_bytes(lowered.compile(), ("all",) * 5).total


def _advance(
    learning: Learning,
    at_once: int | None,
    weights: Weights,
    here: Here,
    key: Array,
    data: Examples,
    count: Array,
) -> tuple[Weights, Array, dict[str, Array]]:
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), weights.variables
    )

    def one(own):
        variables, log_alpha, here = own
        part = smaller(variables, here.positions)
        gates = {name: mine[here.units.number[name]] for name, mine in log_alpha.items()}
        params = {"weights": part["params"], "log_alpha": gates}
        part = {**part, "params": params, "units": here.units}
        mine = jax.random.fold_in(key, here.node.number)
        part, _, loss = learning.train(
            part, learning.tx.init(params), here.node, here.trains, mine, data
        )
        sums = learning.judge(part, data, count)
        trained = part["params"]
        log_alpha = {
            name: value.at[here.units.number[name]].set(
                jnp.where(here.units.alive[name] > 0, trained["log_alpha"][name],
                          value[here.units.number[name]])
            )
            for name, value in log_alpha.items()
        }  # fmt: skip
        left = {name: part[name] for name in variables if name != "params"}
        left = whole({**left, "params": trained["weights"]}, here.positions, shapes)
        return (left, log_alpha), loss, sums

    taken = jax.tree.map(lambda leaf: leaf[here.places], weights)
    own = (taken.variables, taken.log_alpha, here)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) // max(1, _nodes_of(weights))
    together = nodes_at_once(size) if at_once is None else at_once
    if together == 0:
        found, loss, sums = jax.vmap(one)(own)
    else:
        found, loss, sums = jax.lax.map(one, own, batch_size=together if together > 1 else None)
    put = lambda leaf, new: leaf.at[here.places].set(new)  # noqa: E731
    return Weights(*jax.tree.map(put, tuple(weights), found)), loss, sums


def _nodes_of(weights: Weights) -> int:
    return len(jax.tree.leaves(weights)[0])
