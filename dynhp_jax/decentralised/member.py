"""One node by itself, with its own data: the engine of `train` where nodes are far apart.

It draws what the node of that number draws in a run of all nodes, so that the same exchange leads
to the same weights, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.decentralised import initialisation
from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.calls import initial_key
from dynhp_jax.decentralised.local_training import Examples, Learning, Node
from dynhp_jax.decentralised.rounds import Rounds, Schedule, State
from dynhp_jax.decentralised.setting import setting_of
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery.cut import axis_cuts, cut_leaf

Arrays = dict[str, np.ndarray]


class Member:
    """A node that trains between two exchanges, and whose arrays travel without lost units.

    The computation is in whole arrays, with zeros for the units that are lost; what travels is
    small.

    Args:
      model, variables: as `train` takes them; the variables are those that all nodes start with, or
        those whose shapes a node draws weights for.
      data: (inputs, targets) of this node alone.
      number: of the node, from 0.
      loss, tx, batch, local_epochs, seed, gain: as `train` takes them, the same on all nodes.
      keeps: {group: units that this node has}; None for all.

    Attributes:
      number, examples: of the node.
      keeps: of the node; {} where it has all units.
      arrays: {path: array}, what the node starts with.

    Raises:
      UserError: for what cannot be trained.
    """

    def __init__(
        self,
        model: Any,
        variables: Any = None,
        *,
        data: Any,
        number: int,
        loss: str | Callable[[Any, Any], jax.Array] = "cross_entropy",
        tx: optax.GradientTransformation | None = None,
        batch: int = 32,
        local_epochs: int = 5,
        seed: int = 0,
        gain: float | None = None,
        keeps: Keeps | None = None,
    ):
        examples = len(jax.tree.leaves(data[1])[0])
        setting = setting_of(
            model, variables, data, data, [np.arange(examples)], np.eye(1), 1, Coverage(), loss,
            None, None, None if keeps is None else [keeps], seed,
        )  # fmt: skip
        pairs, whole = setting.pairs["train"], setting.source
        self.number, self.examples, self.keeps = number, examples, dict(keeps or {})
        tx = optax.sgd(1e-3, momentum=0.5) if tx is None else tx
        learning = Learning(whole.functions, setting.task, tx, batch, local_epochs, judged=1)
        self._rounds = Rounds(learning, Coverage(), local_statistics=True)
        self._program = self._rounds.program()
        self._key, self._shapes = jax.random.key(seed), whole.shapes
        self._groups = whole.groups if self.keeps else None
        self._node = Node(
            np.array([number], np.int32), np.arange(examples, dtype=np.int32)[None],
            np.array([examples], np.int32), setting.units,
        )  # fmt: skip
        one = jax.tree.map(lambda leaf: leaf[:1], (pairs.inputs, pairs.targets))
        self._data = Examples(pairs.inputs, pairs.targets, *one)
        start = dict(whole.variables)
        if gain is not None:
            own = jax.random.fold_in(initial_key(self._key), number)
            start["params"] = initialisation.drawn(start["params"], own, gain)
        self.arrays = small_arrays(start, self._groups, self.keeps)

    def train(self, arrays: Arrays, done: int) -> tuple[Arrays, float]:
        """The local epochs of a round.

        Args:
          arrays: of the node, after the exchange.
          done: rounds before this one.

        Returns:
          (arrays, the mean loss of the mini-batches).
        """
        stacked = jax.tree.map(lambda leaf: leaf[None], whole_arrays(
            arrays, self._shapes, self._groups, self.keeps))  # fmt: skip
        state = State(stacked, (), np.int32(done))
        schedule = Schedule(
            np.eye(1, dtype=np.float32), np.ones((1, 1), bool), np.ones((1, 1), bool),
            np.zeros(1, np.int32),
        )  # fmt: skip
        state, seen = self._program(state, self._key, self._node, self._data, schedule, np.int32(1))
        variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
        return small_arrays(variables, self._groups, self.keeps), float(seen.loss[0, 0])


def small_arrays(variables: Any, groups: Groups | None, keeps: Keeps) -> Arrays:
    """{path: array without the lost units}, on the host.

    Args:
      variables: of one node, whole.
      groups: of its units; None where it has lost none.
      keeps: that it has, {} for all.
    """
    cuts = axis_cuts(groups, keeps) if keeps else {}
    named = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(variables)}
    return {name: np.asarray(cut_leaf(np.asarray(leaf), cuts.get(name, ())))
            for name, leaf in named.items()}  # fmt: skip


def whole_arrays(arrays: Arrays, shapes: Any, groups: Groups | None, keeps: Keeps) -> Any:
    """The inverse of `small_arrays`, with zeros for what is lost.

    Args:
      arrays: {path: array}.
      shapes: of the variables, whole.
      groups, keeps: as in `small_arrays`.
    """
    cuts = axis_cuts(groups, keeps) if keeps else {}

    def one(path, leaf):
        name = path_name(path)
        found = np.zeros(leaf.shape, leaf.dtype)
        places = dict(cuts.get(name, ()))
        found[np.ix_(*(places.get(axis, np.arange(size))
                       for axis, size in enumerate(leaf.shape)))] = arrays[name]  # fmt: skip
        return found

    return jax.tree_util.tree_map_with_path(one, shapes)
