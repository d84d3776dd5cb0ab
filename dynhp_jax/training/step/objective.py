"""The objective of one mini-batch: the loss of its examples, with a teacher's part; the penalty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynhp_jax.batch_size.probed import probed
from dynhp_jax.gates.gated import gated
from dynhp_jax.gates.penalty import gate_penalty, squares_of
from dynhp_jax.training.extension import replaces_trained
from dynhp_jax.training.step.setup import Setup
from dynhp_jax.training.step.teacher import distillation_losses
from dynhp_jax.training.step.weight_mean import Averages

Array = jax.Array


class Constants(NamedTuple):
    """What the objective reads and is not differentiated by."""

    variables: dict[str, Any]  # collections other than 'params'
    params: Any  # as they are before the step; what of them is trained comes in beside them
    masks: dict[str, Array]
    prices: dict[str, Array]
    lam: Array
    averages: Averages | tuple[()] = ()  # the teacher, where there is one
    teaching: Array | float = 0.0  # f32[], its share of the loss
    key: Array | tuple[()] = ()  # of what the model draws, where it draws
    own: Any = ()  # what an extension keeps


class Targets(NamedTuple):
    """What the outputs for examples are held against."""

    values: Any  # a pytree [batch, ...]; of classes, i32[batch]
    teacher: Array | None  # f32[batch, classes], its logits


class Examples(NamedTuple):
    """A mini-batch that is gathered from its split only where it is used.

    Attributes:
      inputs, targets: of the whole split, pytrees of [examples, ...].
      rows: i32[batch], which of them.
      count: i32[], how many of the rows are the mini-batch's, the first ones; None for all. What
        the others are does not matter.
      first: i32[], the place of the first row in the mini-batch, where these are a part of one.
      view: `view(images, rows, first) -> f32[batch, ...]`, what training sees of whole images, see
        `augmentation`; None for the rows as they are.
      perturb: `perturb(images, first) -> images`, the noise on them; None for none.
    """

    inputs: Any
    targets: Any
    rows: Array
    count: Array | None = None
    first: Array | int = 0
    view: Callable | None = None
    perturb: Callable | None = None

    def gathered(self) -> tuple[Any, Any]:
        """Inputs and targets, pytrees of [batch, ...]."""
        inputs = self.clean()
        if self.perturb is not None:
            inputs = self.perturb(inputs, self.first)
        return inputs, self._rows_of(self.targets)

    def clean(self) -> Any:
        """Inputs, a pytree of [batch, ...], without noise."""
        if self.view is not None:
            return self.view(self.inputs, self.rows, self.first)
        return self._rows_of(self.inputs)

    def _rows_of(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[self.rows], tree)

    @property
    def valid(self) -> Array | None:
        """bool[batch]: which rows are the mini-batch's; None for all."""
        return None if self.count is None else jnp.arange(len(self.rows)) < self.count

    def part(self, k: Array, size: int) -> "Examples":
        """The k-th `size` examples."""
        rows = jax.lax.dynamic_slice_in_dim(self.rows, k * size, size)
        return self._replace(rows=rows, first=self.first + k * size)


class BatchResult(NamedTuple):
    """What one mini-batch showed, beside its gradients.

    Attributes:
      data_loss, grad_variance: f32[]; with a teacher its part is in the loss of the data (and so
        in F of the batch rule, as it is in ||S||_1).
      metrics: {name: sums}, of the task.
      z: {group: [units] or [batch, units]}, the gates that were drawn.
      updates: collections that training updates (batch statistics).
      penalty: f32[], of gates and weights.
    """

    data_loss: Array
    grad_variance: Array
    metrics: dict[str, Array]
    z: dict[str, Array]
    updates: dict[str, Any]
    penalty: Array

    @property
    def loss(self) -> Array:
        """f32[]: what training makes small."""
        return self.data_loss + self.penalty


class Objective:
    """What training makes small.

    Args:
      setup: of the step; with `savings.remat` nothing but products is kept for the backward pass,
        and the rest is computed again.

    Attributes:
      network, config, examples: of the setup.
      extension: of the network.
      apply: `apply(variables, trained, own, z, inputs, key) -> (outputs, updates)` in training.
      probed: the same with a probe, `probed(variables, trained, own, probe, inputs, z, key)`; see
        `variance.probed`.
    """

    def __init__(self, setup: Setup):
        self.network, self.config = setup.network, setup.config
        self.examples, self.extension = setup.examples, setup.network.extension
        apply = gated(self.network.train, self.network.groups)
        # The inputs go first: the first axis of the first input is the batch.
        with_probe = probed(lambda variables, x, z, key: apply(variables, z, x, key))
        if setup.savings.remat:
            apply = jax.checkpoint(apply, policy=_products)
            with_probe = jax.checkpoint(with_probe, policy=_products)
        self.apply = self.extension.forward(apply)
        self.probed = self.extension.forward(with_probe)

    def losses(self, outputs: Any, truth: Targets, fixed: Constants) -> Array:
        """f32[batch]: each example's own."""
        if truth.teacher is None:
            return self.network.task.loss(outputs, truth.values)
        temperature = self.config.distillation.temperature
        return distillation_losses(outputs, *truth, fixed.teaching, temperature)

    def penalty(self, trained: dict[str, Any], fixed: Constants) -> Array:
        """f32[]: of gates and, with L2, of weights; `trained` is {'params', 'gates'}."""
        params, gates, section = trained["params"], trained["gates"], self.config.penalty
        if replaces_trained(self.extension):
            params = fixed.params
        convention, l2 = section.convention, section.l2
        squares = squares_of(self.network.groups, params, fixed.masks) if l2 else (None, 0.0)
        return gate_penalty(
            gates, fixed.prices, fixed.masks, fixed.lam, self.examples, convention, l2, *squares
        )

    def mean_loss(
        self,
        trained: dict[str, Any],
        probe: Array | None,
        fixed: Constants,
        z_of: Callable,
        inputs: Any,
        truth: Targets,
        valid: Array | None,
    ) -> tuple[Array, BatchResult]:
        """The mean loss of the examples of a mini-batch, and what else was found.

        The penalty is no part of it: the same for every example, it is no part of their gradients'
        variance. `BatchResult` has it as 0, and `grad_variance`, too.

        Args:
          trained: {'params', 'gates'}.
          probe: f32[batch] of zeros, or None to do without.
          fixed: what is read beside.
          z_of: `z_of(gates)` draws the gates.
          inputs: pytree of [batch, ...].
          truth: what the outputs are held against.
          valid: bool[batch], which examples count; None for all.

        Returns:
          (f32[], BatchResult).
        """
        z = z_of(trained["gates"])
        variables = {**fixed.variables, "params": fixed.params}
        model = variables, trained["params"], fixed.own
        if probe is None:
            outputs, updates = self.apply(*model, z, inputs, fixed.key)
        else:
            outputs, updates = self.probed(*model, probe, inputs, z, fixed.key)
        losses = self.losses(outputs, truth, fixed)
        metrics = self.network.task.sums(outputs, truth.values, valid)
        if valid is None:
            loss = jnp.mean(losses)
        else:
            loss = jnp.sum(jnp.where(valid, losses, 0.0)) / jnp.sum(valid)
        zero = jnp.zeros((), jnp.float32)
        return loss, BatchResult(loss, zero, metrics, z, updates, zero)


def _products(primitive, *_, **__) -> bool:
    """What a backward pass keeps: results of matrix products and convolutions, nothing else."""
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)
