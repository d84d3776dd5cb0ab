"""All nodes between two rounds: what they have, how they choose their units, what they send."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised.local_training import Node
from dynhp_jax.decentralised.pruned.bytes_held import BytesHeld
from dynhp_jax.decentralised.pruned.choices.choice import Choice, Seen
from dynhp_jax.decentralised.pruned.gating import Gating, Units
from dynhp_jax.decentralised.pruned.node_program import Here, Weights
from dynhp_jax.decentralised.pruned.size_classes import SizeClass, size_classes, units_in_class
from dynhp_jax.decentralised.pruned.stacks import positions_of
from dynhp_jax.gates import activity, hard_concrete
from dynhp_jax.gates.penalty import prices_of
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.structure.groups import Groups
from dynhp_jax.structure.keeps import UnitKeeps, UnitMasks
from dynhp_jax.training.network import Network

_EXAMPLES = 128  # of a node, that criteria look at


@dataclasses.dataclass(frozen=True, eq=False)
class Fleet:
    """How the nodes of a run choose their units.

    Attributes:
      network: whole.
      choice: of the units.
      gating: of the gates; None without.
      held: the nodes' meter.
      budgets: bytes of every node, None for any.
      least, most: mini-batches.
      classes: sizes that are stacked; 0 for one, masked.
    """

    network: Network
    choice: Choice
    gating: Gating | None
    held: BytesHeld
    budgets: tuple[int | None, ...]
    least: int
    most: int
    classes: int

    @property
    def groups(self) -> Groups:
        """Whose units are pruned."""
        return self.network.groups

    def all_units(self) -> dict[str, np.ndarray]:
        """{group: f32[nodes, units]}, nobody having lost any."""
        return {name: np.ones((len(self.budgets), group.size), np.float32)
                for name, group in self.groups.items()}  # fmt: skip

    def gates(self, key: jax.Array) -> dict[str, jax.Array]:
        """The gates of all nodes at the start, {group: f32[nodes, units]}; alike if averaged."""
        if self.gating is None:
            return {}

        def one(node: jax.Array) -> dict[str, jax.Array]:
            mine = jax.random.fold_in(key, node)
            return {
                name: hard_concrete.init(key_for(mine, name), group.size, self.gating.open_rate)
                for name, group in self.groups.items()
            }

        nodes = jnp.arange(len(self.budgets))
        return jax.vmap(one)(0 * nodes if self.choice.averaged else nodes)

    def pruned(
        self, alive: dict[str, np.ndarray], rounds: int, weights: Weights, there: np.ndarray,
        examples: Any,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """The units that the nodes have from now on.

        Args:
          alive: those that they have, {group: f32[nodes, units]}.
          rounds: so far.
          weights: of all nodes.
          there: bool[nodes]; others keep what they have.
          examples: `examples(node, most) -> (inputs, targets)`.
        """
        open_rates = jax.device_get(
            {name: hard_concrete.prob_open(value) for name, value in weights.log_alpha.items()}
        )
        new = {name: mask.copy() for name, mask in alive.items()}
        for node in np.flatnonzero(there):
            opened = {name: np.asarray(each[node], np.float64) for name, each in open_rates.items()}
            keeps = self._of_node(int(node), alive, rounds, weights, opened, examples)
            for name, mask in keeps.masks().items():
                new[name][node] = mask
        return new

    def _of_node(self, node, alive, rounds, weights, opened, examples) -> UnitKeeps:
        masks = UnitMasks({name: mask[node] for name, mask in alive.items()})
        if self.gating is not None:
            masks = UnitMasks(activity.keep_active(opened, masks, self.gating.gamma, self.groups))
        if self.choice.returns:
            masks = UnitMasks({name: np.ones_like(mask) for name, mask in masks.items()})
        held = masks.keeps()
        budget = self.budgets[node]
        if budget is None or self.held.of(held, self.least) <= budget:
            return held

        def evidence() -> Evidence:
            variables = jax.tree.map(lambda leaf: leaf[node], weights.variables)
            inputs, targets = examples(node, _EXAMPLES)
            return Evidence(
                self.network.evaluate, self.groups, variables, (inputs,), targets,
                self.network.task.loss, names=tuple(self.groups),
            )  # fmt: skip

        every = {name: np.ones(group.size) for name, group in self.groups.items()}
        scores = self.choice.scores(Seen(rounds, self.groups, opened or every, evidence))
        return self.held.fitted(scores, held, budget, self.least, node)

    def keeps(self, alive: dict[str, np.ndarray], node: int) -> UnitKeeps:
        """The units of a node."""
        return UnitMasks({name: mask[node] for name, mask in alive.items()}).keeps()

    def batches(self, alive: dict[str, np.ndarray]) -> list[int]:
        """The mini-batch of every node."""
        return [
            self.held.batch(self.keeps(alive, node), budget, self.least, self.most)
            for node, budget in enumerate(self.budgets)
        ]

    def stacks(
        self, alive: dict[str, np.ndarray], batches: list[int], nodes: Node, trains: np.ndarray
    ) -> list[tuple[SizeClass, Here]]:
        """The nodes by their size, with what their programs take."""
        found = []
        for each in size_classes(self.groups, alive, batches, self.classes):
            keeps, places = units_in_class(self.groups, alive, each), np.array(each.nodes)
            positions, inputs = positions_of(self.groups, keeps)
            number = {name: np.stack([mine[name] for mine in keeps]).astype(np.int32)
                      for name, _ in each.widths}  # fmt: skip
            mine = {name: np.take_along_axis(alive[name][places], number[name], 1)
                    for name in number}  # fmt: skip
            units = Units(mine, number, self._prices(alive, places, number, nodes.count), inputs)
            node = jax.tree.map(lambda leaf, at=places: np.asarray(leaf)[at], nodes)
            here = Here(places.astype(np.int32), node, units, positions, trains[places])
            found.append((each, here))
        return found

    def _prices(self, alive, places, number, counts) -> dict[str, np.ndarray]:
        if self.gating is None:
            return {}
        by_node = []
        for row, node in enumerate(places):
            masks = {name: mask[node] for name, mask in alive.items()}
            prices = prices_of(self.groups, masks, self.gating.convention)
            divided = self.gating.convention in ("amlab", "parameters")
            lam = self.gating.lam / (max(1, int(counts[node])) if divided else 1)
            by_node.append({name: lam * np.asarray(price)[number[name][row]]
                            for name, price in prices.items()})  # fmt: skip
        return {name: np.stack([each[name] for each in by_node]).astype(np.float32)
                for name in number}  # fmt: skip

    def unit_bytes(self) -> int:
        """Of a message that says which units a node has: a bit for each of every group."""
        return sum(-(-group.size // 8) for group in self.groups.values())
