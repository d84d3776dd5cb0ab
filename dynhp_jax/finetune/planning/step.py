"""A training step in a setting, and its executable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.compressed import Ranks
from dynhp_jax.finetune.costs import Cost
from dynhp_jax.finetune.drawing import Quota
from dynhp_jax.finetune.planning.setting import Setting
from dynhp_jax.finetune.rows import Rows, apply_rows, leaves_by_path, replaced, take_rows
from dynhp_jax.jaxprs.trace import abstract
from dynhp_jax.memory import fusion


class State(NamedTuple):
    """What a step carries beside the variables.

    Attributes:
      optimizer: optax's state, of {'rows': {path: rows}, 'whole': {path: leaf}}.
      factors: of what is stored, with `how='asi'`; else {}.
    """

    optimizer: Any
    factors: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is trained, as it was handed in.

    Attributes:
      apply: `apply(variables, *inputs) -> outputs`.
      variables, inputs, targets: arrays, or their shapes.
      loss: `loss(outputs, targets) -> f[]`, the mean over the examples.
      tx: the optimizer.
      whole: paths of the leaves that are trained whole.
      kernels: which of these are kernels, and their costs.
    """

    apply: Callable
    variables: Any
    inputs: tuple
    targets: Any
    loss: Callable
    tx: optax.GradientTransformation
    whole: tuple[Path, ...]
    kernels: Mapping[Path, Cost]

    @property
    def examples(self) -> int:
        """Of the mini-batch."""
        return jax.tree.leaves(self.inputs)[0].shape[0]

    @property
    def itemsize(self) -> int:
        """Bytes of a number that is kept."""
        leaves = leaves_by_path(self.variables)
        return max(jnp.result_type(leaves[path]).itemsize for path in self.whole)

    def trained(self, variables: Any, rows: Mapping[Path, Rows]) -> dict[str, Any]:
        """What is differentiated: rows, which are probes and values for a decay, and leaves."""
        leaves = leaves_by_path(variables)
        whole = {path: leaves[path] for path in self.whole}
        return {"rows": take_rows(variables, rows), "whole": whole}


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A training step of a task.

    Attributes:
      task: what is trained.
      quotas: how many rows of each kernel there is room for.
      setting: how bytes are saved.
      ranks, how: of what is stored, where the setting has an epsilon below 1.
      factors: shapes of the factors that are state.
    """

    task: Task
    quotas: Mapping[Path, Quota]
    setting: Setting
    ranks: Ranks = dataclasses.field(default_factory=dict)
    how: str = "asi"
    factors: Any = dataclasses.field(default_factory=dict)

    def rows(self) -> dict[Path, Rows]:
        """Their shapes."""
        found = {}
        for path, quota in self.quotas.items():
            layout = quota.cost.layout
            shape = layout.index_shape(quota.rows)
            found[path] = Rows(jax.ShapeDtypeStruct(shape, jnp.int32), layout)
        return found

    def state(self) -> State:
        """Its shapes."""
        task = self.task
        trained = jax.eval_shape(task.trained, task.variables, self.rows())
        return State(jax.eval_shape(task.tx.init, trained), self.factors)

    def objective(self, variables: Any, rows: Mapping[Path, Rows]) -> Callable:
        """`f(trained, factors, inputs, targets) -> (loss, factors)`, which is differentiated."""
        task = self.task
        chosen = self.setting.transformed(
            task.apply, self.quotas, (*self.quotas, *task.kernels), self.ranks, self.how
        )

        def of(trained: Any, factors: Any, inputs: tuple, targets: Any) -> tuple[Any, Any]:
            given = replaced(variables, trained["whole"])
            outputs, factors = chosen(given, factors, rows, trained["rows"], *inputs)
            return task.loss(outputs, targets), lax.stop_gradient(factors)

        return of

    def gradients(
        self, variables: Any, state: State, rows: Mapping[Path, Rows], inputs: tuple, targets: Any
    ) -> tuple[Any, Any, Any]:
        """(mean loss, gradients of what is trained, factors), of one part after the other."""
        task, parts = self.task, self.setting.parts
        every = task.trained(variables, rows)
        gradient = jax.value_and_grad(self.objective(variables, rows), has_aux=True)
        if parts == 1:
            (value, factors), found = gradient(every, state.factors, inputs, targets)
            return value, found, factors

        def body(carry: tuple, part: tuple) -> tuple:
            sums, factors = carry
            (one, factors), found = gradient(every, factors, *part)
            return (jax.tree.map(lambda a, b: a + b / parts, sums, (one, found)), factors), None

        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (inputs, targets))
        part = jax.tree.map(lambda x: x[0], split)
        (value, _), _ = jax.eval_shape(gradient, every, state.factors, *part)
        zeros = jax.tree.map(jnp.zeros_like, (value, every))
        ((value, found), factors), _ = lax.scan(body, (zeros, state.factors), split)
        return value, found, factors

    def __call__(
        self, variables: Any, state: State, rows: Mapping[Path, Rows], inputs: tuple, targets: Any
    ) -> tuple[Any, State, jax.Array]:
        """(variables, state, loss) after a step."""
        value, gradients, factors = self.gradients(variables, state, rows, inputs, targets)
        # All gradients are done before the optimizer starts: activations are gone by then.
        gradients = lax.optimization_barrier(gradients)
        trained = self.task.trained(variables, rows)
        change, optimizer = self.task.tx.update(gradients, state.optimizer, trained)
        whole = optax.apply_updates(trained["whole"], change["whole"])
        variables = apply_rows(replaced(variables, whole), rows, change["rows"])
        return variables, State(optimizer, factors), value

    def arguments(self) -> tuple:
        """Shapes of what the step takes."""
        task = self.task
        return abstract((task.variables, self.state(), self.rows(), task.inputs, task.targets))

    def compiled(self) -> jax.stages.Compiled:
        """The executable, which writes over the variables and the state that it is given."""
        step = jax.jit(self, donate_argnums=(0, 1))
        return fusion.unfused(step.lower(*self.arguments()))
