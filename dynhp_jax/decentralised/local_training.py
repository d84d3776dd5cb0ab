"""One node by itself, traced: it trains on its examples, is judged, and weighs its own weights.

What a node draws depends on its key alone. An epoch of a node takes as many steps as its own
examples make; a node without examples, or one that does not train, takes none, so that nothing of
it changes, momentum included.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynhp_jax.tasks.task import Task
from dynhp_jax.training.own_model import Functions

Array = jax.Array

_AT_ONCE = 8  # examples whose gradients are in memory together, where each is squared


class Examples(NamedTuple):
    """The data, one copy for all nodes: pytrees of arrays [examples, ...].

    Attributes:
      inputs, targets: to train on.
      test_inputs, test_targets: to judge by; as many as `Learning.judged` divides.
    """

    inputs: Any
    targets: Any
    test_inputs: Any
    test_targets: Any


class Node(NamedTuple):
    """What one node has, or all of them with a leading axis.

    Attributes:
      number: i32[], from which its keys are made.
      rows: i32[items], its examples' numbers, zeros behind them.
      count: i32[], how many these are.
      units: masks as `aggregation.rule` says, () where no node has lost units.
    """

    number: Array
    rows: Array
    count: Array
    units: Any = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Learning:
    """How a node learns and is judged; static.

    Attributes:
      functions: of the model.
      task: loss and metrics.
      tx: the optimizer of the parameters.
      batch: examples of a mini-batch; the last one of an epoch may have fewer.
      epochs: that a node trains between two exchanges.
      judged: test examples at once.
      price: what is added to the loss of every mini-batch, `price(variables) -> f32[]`; None for
        nothing.
    """

    functions: Functions
    task: Task
    tx: optax.GradientTransformation
    batch: int
    epochs: int
    judged: int
    price: Callable[[Any], Array] | None = None

    def train(
        self, variables: Any, opt_state: Any, node: Node, trains: Array, key: Array, data: Examples
    ) -> tuple[Any, Any, Array]:
        """The epochs of a round.

        Args:
          variables, opt_state: of the node.
          node: it.
          trains: bool[].
          key: of this node and round.
          data: of all.

        Returns:
          (variables, opt_state, f32[]: the mean loss of its mini-batches, NaN without any).
        """
        steps = -(-node.count // self.batch)

        def epoch(number, carry):
            order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
            order = shuffled(order_key, node.rows, node.count)

            def step(place, carry):
                start = place * self.batch + jnp.arange(self.batch)
                here = order[start % jnp.maximum(node.count, 1)]  # what fills up has no weight
                of_step = jax.random.fold_in(step_key, place)
                mini = jax.tree.map(lambda leaf: leaf[here], (data.inputs, data.targets))
                return self.step(carry, *mini, start < node.count, node.units, of_step)

            return jax.lax.fori_loop(0, steps, step, carry)

        epochs = jnp.where(trains, self.epochs, 0)
        start = variables, opt_state, jnp.float32(0)
        variables, opt_state, total = jax.lax.fori_loop(0, epochs, epoch, start)
        return variables, opt_state, total / (epochs * steps)

    def step(
        self, carry: Any, inputs: Any, targets: Any, counts: Array, units: Any, key: Array
    ) -> tuple[Any, Any, Array]:
        """A step on one mini-batch.

        Args:
          carry: (variables, opt_state, f32[]: the losses so far).
          inputs, targets: of the mini-batch, pytrees of arrays [batch, ...].
          counts: bool[batch], which examples count.
          units, key: of the node.
        """
        variables, opt_state, total = carry
        others = {name: value for name, value in variables.items() if name != "params"}

        def loss(params):
            masked = with_units({**others, "params": params}, units)
            key_or_none = key if self.functions.draws else ()
            outputs, updates = self.functions.train(masked, inputs, key_or_none)
            each = self.task.loss(outputs, targets)
            mean = jnp.sum(jnp.where(counts, each, 0)) / jnp.sum(counts)
            return (mean if self.price is None else mean + self.price(masked)), updates

        params = variables["params"]
        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        change, opt_state = self.tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, change)
        variables = {**variables, **with_units_of(updates, units), "params": params}
        return variables, opt_state, total + value.astype(jnp.float32)

    def judge(self, variables: Any, data: Examples, count: Array) -> dict[str, Any]:
        """The sums of loss and metrics over the first test examples.

        Args:
          variables: of the node.
          data: of all.
          count: i32[], of how many.

        Returns:
          {'loss': f32[], and what `Task.sums` has}.
        """

        def some(place, sums):
            start = place * self.judged
            inputs, targets = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, self.judged),
                (data.test_inputs, data.test_targets),
            )
            weight = start + jnp.arange(self.judged) < count
            return jax.tree.map(jnp.add, sums, self._sums(variables, inputs, targets, weight))

        return jax.lax.fori_loop(0, -(-count // self.judged), some, self.no_sums(variables, data))

    def no_sums(self, variables: Any, data: Examples) -> dict[str, Any]:
        """Zeros of the shapes of `judge`."""
        inputs, targets = (
            jax.tree.map(lambda leaf: leaf[: self.judged], each)
            for each in (data.test_inputs, data.test_targets)
        )
        weight = jnp.ones(self.judged, bool)
        shapes = jax.eval_shape(self._sums, variables, inputs, targets, weight)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def _sums(self, variables, inputs, targets, weight):
        outputs = self.functions.evaluate(variables, inputs)
        losses = jnp.where(weight, self.task.loss(outputs, targets), 0)
        return {"loss": jnp.sum(losses), **self.task.sums(outputs, targets, weight)}

    def squared_gradients(
        self, variables: Any, node: Node, key: Array, data: Examples, examples: int
    ) -> Any:
        """The diagonal of the empirical Fisher matrix, of the parameters; ones for all else.

        Args:
          variables: of the node.
          node: it.
          key: by which its examples are chosen.
          data: of all.
          examples: how many; a multiple of 8 is taken. A node with fewer sees some twice.
        """
        order = shuffled(key, node.rows, node.count)
        others = {name: value for name, value in variables.items() if name != "params"}

        def gradient(params, inputs, targets):
            one = jax.tree.map(lambda leaf: leaf[None], (inputs, targets))
            masked = with_units({**others, "params": params}, node.units)
            return self.task.loss(self.functions.evaluate(masked, one[0]), one[1])[0]

        def some(place, total):
            here = order[(place * _AT_ONCE + jnp.arange(_AT_ONCE)) % jnp.maximum(node.count, 1)]
            mini = jax.tree.map(lambda leaf: leaf[here], (data.inputs, data.targets))
            found = jax.vmap(jax.grad(gradient), (None, 0, 0))(variables["params"], *mini)
            return jax.tree.map(lambda sums, each: sums + jnp.sum(each**2, 0), total, found)

        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        turns = jnp.where(node.count > 0, -(-examples // _AT_ONCE), 0)
        total = jax.lax.fori_loop(0, turns, some, zeros)
        return {**jax.tree.map(jnp.ones_like, others), "params": total}


def shuffled(key: Array, rows: Array, count: Array) -> Array:
    """A node's examples in random order, i32[items], with what is behind them left behind.

    The order does not depend on how far the rows are filled up.
    """
    drawn = jax.random.uniform(key, rows.shape)
    return rows[jnp.argsort(jnp.where(jnp.arange(rows.size) < count, drawn, jnp.inf))]


def with_units(variables: Any, units: Any) -> Any:
    """Variables without the units that a node has lost, zeros in their place; also gradients."""
    if isinstance(units, tuple):  # nobody has lost any
        return variables

    def one(weight, has):
        for mask in has:
            weight = weight * mask.astype(weight.dtype)
        return weight

    return jax.tree.map(one, variables, units)


def with_units_of(some: dict[str, Any], units: Any) -> dict[str, Any]:
    """The same for some of the collections."""
    if isinstance(units, tuple):
        return some
    return with_units(some, {name: units[name] for name in some})
