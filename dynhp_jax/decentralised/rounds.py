"""Rounds of all nodes as one compiled program: exchange, train, and judge where a round says so.

Nodes are a leading axis of everything that they have. Who exchanges with whom, who is there, who
trains and when is judged are arrays, so that one program serves any graph and churn, any number of
rounds up to its slots, and a run that goes on: it is the same executable, with the same bits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised.aggregation.rule import Mix, Rule, dense
from dynhp_jax.decentralised.devices import AXIS, mesh_of
from dynhp_jax.decentralised.local_training import Learning, Node, with_units
from dynhp_jax.decentralised.mixing import present

Array = jax.Array

_CACHED = 2**18  # bytes of a node that a core keeps near: larger ones go one after the other


class State(NamedTuple):
    """What changes from round to round.

    Attributes:
      variables: {'params': ..., and other collections}, arrays [nodes, ...].
      opt_state: likewise; () where every round starts a new one.
      done: i32[], rounds so far.
    """

    variables: Any
    opt_state: Any
    done: Array


class Schedule(NamedTuple):
    """The rounds to come, in slots.

    Attributes:
      mixing: f32[nodes, nodes], or [slots, nodes, nodes] where it changes.
      alive, trains: bool[slots, nodes], see `scenarios.Presence`.
      judged: i32[slots], on how many test examples the nodes are judged after a round; 0: not.
    """

    mixing: Array
    alive: Array
    trains: Array
    judged: Array


class Observed(NamedTuple):
    """What is known of the rounds.

    Attributes:
      loss: f32[slots, nodes], the mean of the mini-batches; NaN where there was none.
      sums: {'loss' and metrics: [slots, nodes, ...]} over test examples; 0 where not judged.
    """

    loss: Array
    sums: dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Rounds:
    """What rounds are made of; static.

    Attributes:
      learning: of a node.
      rule: of aggregation.
      restart: whether the optimizer starts anew in every round, as in the published code.
      local_statistics: whether only parameters are exchanged, and no other collection.
      at_once: nodes that are computed together: 0 for all (`vmap`), 1 for one after the other
        (`lax.map`), or so many.
      devices: among which the nodes are divided, of all processes.
    """

    learning: Learning
    rule: Rule
    restart: bool = True
    local_statistics: bool = False
    at_once: int = 0
    devices: int = 1

    def start(self, variables: Any, nodes: Node) -> State:
        """The state before the first round.

        Args:
          variables: of all nodes, [nodes, ...].
          nodes: of all.
        """
        variables = jax.vmap(with_units)(variables, nodes.units)
        opt_state = () if self.restart else jax.vmap(self.learning.tx.init)(variables["params"])
        # Copies: the program writes over its state, and the variables may be the caller's.
        return State(jax.tree.map(jnp.array, variables), opt_state, jnp.int32(0))

    def program(self) -> Callable:
        """`advance(state, key, nodes, data, schedule, rounds) -> (State, Observed)`, jitted.

        It does the first `rounds` of the schedule's slots, i32[]; the state is donated. A node's
        draws come from the key, its number and `state.done`, so neither the order of the nodes nor
        the devices nor the slots matter to them.
        """
        if self.devices == 1:
            return jax.jit(self._advance, donate_argnums=0)
        of_state, of_node, whole = State(P(AXIS), P(AXIS), P()), P(AXIS), P()
        split = jax.shard_map(
            self._advance,
            mesh=mesh_of(self.devices),
            in_specs=(of_state, whole, of_node, whole, whole, whole),
            out_specs=(of_state, whole),
            check_vma=False,
        )
        return jax.jit(split, donate_argnums=0)

    def _advance(self, state, key, nodes, data, schedule, rounds):
        slots, here = len(schedule.judged), len(nodes.number)
        one = jax.tree.map(lambda leaf: leaf[0], state.variables)
        empty = jax.tree.map(
            lambda leaf: jnp.zeros((slots, here, *leaf.shape), leaf.dtype),
            Observed(jnp.float32(0), self.learning.no_sums(one, data)),
        )

        def one_round(slot, carry):
            state, observed = carry
            found = self._round(state, key, nodes, data, schedule, slot)
            state, now = found
            put = lambda array, value: array.at[slot].set(value)  # noqa: E731
            return state, jax.tree.map(put, observed, now)

        state, observed = jax.lax.fori_loop(0, rounds, one_round, (state, empty))
        return state, jax.tree.map(self._everybodys, observed)

    def _round(self, state, key, nodes, data, schedule, slot):
        keys = self._keys(key, state.done, nodes)
        matrix = schedule.mixing if schedule.mixing.ndim == 2 else schedule.mixing[slot]
        alive = schedule.alive[slot]
        variables = self._exchanged(
            state.variables, nodes, data, keys["evidence"], present(matrix, alive), alive
        )

        def train(own):
            variables, opt_state, node, trains, key = own
            if self.restart:
                opt_state = self.learning.tx.init(variables["params"])
            variables, opt_state, loss = self.learning.train(
                variables, opt_state, node, trains, key, data
            )
            return variables, (() if self.restart else opt_state), loss

        trains = self._mine(schedule.trains[slot], len(nodes.number))
        variables, opt_state, loss = self._each(
            train, (variables, state.opt_state, nodes, trains, keys["train"])
        )

        def judge():
            count = schedule.judged[slot]
            return self._each(lambda own: self.learning.judge(own, data, count), variables)

        def no_judging():
            shapes = jax.eval_shape(judge)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        sums = jax.lax.cond(schedule.judged[slot] > 0, judge, no_judging)
        return State(variables, opt_state, state.done + 1), Observed(loss, sums)

    def _exchanged(self, variables, nodes, data, keys, matrix, alive):
        """The variables after the exchange; those of nodes that are not there stay."""
        names = ["params"] if self.local_statistics else list(variables)
        shared = {name: variables[name] for name in names}
        leaves, tree = jax.tree.flatten(shared)
        places = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        some = [leaves[k] for k in places]  # whole numbers, as of steps, are nobody's mean
        units = evidence = None
        if not isinstance(nodes.units, tuple):
            known = tree.flatten_up_to({name: nodes.units[name] for name in names})
            units = [known[k] for k in places]
        if self.rule.needs_evidence:
            found = self._each(
                lambda own: self.learning.squared_gradients(*own, data, self.rule.examples),
                (variables, nodes, keys),
            )
            found = jax.tree.leaves({name: found[name] for name in names})
            evidence = [found[k] for k in places]
        here = len(nodes.number)
        mix = self._mix(self.rule.matrix(matrix), here)
        there = self._mine(alive, here)
        for k, new in zip(places, self.rule.combine(mix, some, units, evidence), strict=True):
            leaves[k] = jnp.where(there.reshape(-1, *[1] * (new.ndim - 1)), new, leaves[k])
        return {**variables, **tree.unflatten(leaves)}

    def _keys(self, key, done, nodes):
        """A key for every node in this round, for each purpose."""

        def keys(name):
            of_round = jax.random.fold_in(key_for(key, name), done)
            return jax.vmap(lambda number: jax.random.fold_in(of_round, number))(nodes.number)

        return {name: keys(name) for name in ("train", "evidence")}

    def _each(self, function: Callable, own: Any) -> Any:
        """A function of one node, of all that are here."""
        if self.at_once == 0:
            return jax.vmap(function)(own)
        return jax.lax.map(function, own, batch_size=self.at_once if self.at_once > 1 else None)

    def _mine(self, array: Array, here: int) -> Array:
        """Of what is known of all nodes, the part of those on this device."""
        if self.devices == 1:
            return array
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(AXIS) * here, here)

    def _everybodys(self, array: Array) -> Array:
        """Of what is known of the nodes here, [slots, nodes here, ...], that of all nodes."""
        if self.devices == 1:
            return array
        return jax.lax.all_gather(array, AXIS, axis=1, tiled=True)

    def _mix(self, matrix: Array, here: int) -> Mix:
        if self.devices == 1:
            return dense(matrix)
        return ring(self._mine(matrix, here), self.devices)


def ring(rows: Array, devices: int) -> Mix:
    """Multiplies by a matrix of which each device has its rows, inside `shard_map`.

    The blocks of nodes go around the devices; each holds two of them at a time.

    Args:
      rows: f32[nodes of this device, all nodes].
      devices: along AXIS.
    """

    def mix(array: Array) -> Array:
        here, me = len(array), jax.lax.axis_index(AXIS)

        def part(turn, block):
            source = (me - turn) % devices
            columns = jax.lax.dynamic_slice_in_dim(rows, source * here, here, axis=1)
            return dense(columns)(block)

        def step(turn, carry):
            total, block = carry
            block = jax.lax.ppermute(block, AXIS, [(k, (k + 1) % devices) for k in range(devices)])
            return total + part(turn, block), block

        return jax.lax.fori_loop(1, devices, step, (part(0, array), array))[0]

    return mix


def nodes_at_once(node_bytes: int) -> int:
    """How many nodes are computed together, where nobody says it: 0 for all.

    On a CPU a node whose weights and moments are larger than a core's cache goes by itself;
    elsewhere all go together.
    """
    return 1 if jax.default_backend() == "cpu" and node_bytes > _CACHED else 0
