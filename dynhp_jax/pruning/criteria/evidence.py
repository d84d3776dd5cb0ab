"""What a criterion may look at: a model, its groups, some examples and a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import leaf_paths, of_variables
from dynhp_jax.structure.group import Group, Member, mismatch
from dynhp_jax.structure.groups import Groups
from dynhp_jax.tasks import losses

UnitScores = dict[str, jax.Array]


class Criterion(Protocol):
    """An importance score: the units with the lowest go first.

    A frozen dataclass whose fields are its options. `scores` is pure and can be jitted; it does not
    depend on how the units of a group are numbered, and draws what is random from `evidence.key`.
    One that looks at `evidence.earlier` says how many of them a run has to keep for it, in an
    attribute `earlier_epochs`. One whose scores can be compared from group to group as they are
    (changes of the loss, probabilities, scales of normalisations) says so by `comparable = True`;
    the scores of others are divided by their group's mean. One that looks at examples is best a
    `chunks.Summed`, so that memory need not hold what it computes of all of them at once.
    """

    def scores(self, evidence: Evidence) -> Mapping[str, jax.Array]:
        """Group name -> f32[units]. A group that is left out is not pruned."""
        ...


def strict_cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """`losses.cross_entropy`, but nan, as are its derivatives, where a label is no class.

    Args:
      outputs: logits [batch, ..., classes].
      labels: int[batch, ...], from 0 to classes - 1.

    Returns:
      f32[batch].

    Raises:
      UserError: outputs or labels of another shape or dtype.
    """
    losses.check_logits(outputs, labels, "labels")
    at = jnp.clip(labels, 0, outputs.shape[-1] - 1)
    taken = jnp.take_along_axis(jax.nn.log_softmax(outputs), at[..., None], axis=-1)[..., 0]
    found = -taken * jnp.where(at == labels, 1, jnp.nan).astype(taken.dtype)
    return losses.mean_of_positions(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """A model, its groups, and data to judge its units by; a pytree, so it passes through `jit`.

    Attributes:
      apply: `apply(variables, *inputs) -> outputs`, for evaluation, every example by itself.
      groups: from `find_groups` on it.
      variables: its variables.
      inputs: what follows them; axis 0 of the first array is the batch axis. None if no criterion
        in use needs examples.
      labels: what the loss compares the outputs with.
      loss: `loss(outputs, labels) -> f32[batch]`, one loss per example.
      names: the groups to score; None for all that can be cut exactly and that the network
        computes (`groups.computed`): inputs, the rows of a vocabulary and experts only where
        they are named.
      key: for criteria that draw.
      gates: {group: log_alpha f32[units]} of a model that was trained with gates.
      earlier: variables of earlier epochs, the latest first, of the same shapes.
    """

    apply: Callable
    groups: Groups
    variables: Any
    inputs: tuple | None = None
    labels: Any = None
    loss: Callable = strict_cross_entropy
    names: tuple[str, ...] | None = None
    key: Any = None
    gates: Mapping[str, Any] | None = None
    earlier: tuple = ()

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the groups to score."""
        if self.names is None:
            return self.groups.computed
        self.groups.check_names(self.names)
        return tuple(self.names)

    @property
    def examples(self) -> int:
        """How many examples there are; 0 without inputs."""
        leaves = jax.tree.leaves(self.inputs)
        return leaves[0].shape[0] if leaves else 0

    def with_examples(self, inputs: tuple | None, labels: Any) -> Evidence:
        """The same with other examples."""
        return dataclasses.replace(self, inputs=inputs, labels=labels)

    @property
    def without_examples(self) -> Evidence:
        """The same without inputs and labels."""
        return self.with_examples(None, None)

    def need(self, criterion: str, *fields: str) -> None:
        """Raises UserError for a field that a criterion needs and that is not there."""
        for field in fields:
            if getattr(self, field) is None:
                raise UserError(
                    f"criterion {criterion!r} needs {field}; give Evidence({field}=...)"
                )

    def check_sizes(self) -> None:
        """Raises ValueError for a leaf of the variables of another shape than the groups expect."""
        for tree in (self.variables, *self.earlier):
            found = dict(zip(leaf_paths(tree), map(np.shape, jax.tree.leaves(tree)), strict=True))
            for path, shape in of_variables(self.groups.shapes).items():
                if path in found and found[path] != tuple(shape):
                    raise ValueError(mismatch(path, found[path], shape))

    def mean_loss(self, outputs: Any) -> jax.Array:
        """The mean of the loss over the examples."""
        return jnp.mean(self.loss(outputs, self.labels))

    def kernels(self, name: str, which: str = "made") -> list[jax.Array]:
        """The weights of a group's units, f32[units, numbers], one array per kernel.

        Args:
          name: the group.
          which: 'made' for the kernels that produce the units, 'read' for those that read them,
            'both'. A group that has none of these (nothing produces the inputs) gives the others.
        """
        return self.rows(self.variables, kernel_members(self.groups[name], which))

    def rows(self, tree: Any, members: list[Member]) -> list[jax.Array]:
        """The numbers of every unit, [units, numbers], at some members of a tree like variables."""
        leaves = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
        return [rows(leaves[member.path], member) for member in members]


def nan_unless(finite: jax.Array, scores: UnitScores) -> UnitScores:
    """The scores, or nan for all of them: no score follows from a loss that is not finite."""
    return {name: jnp.where(finite, score, jnp.nan) for name, score in scores.items()}


def check_losses(evidence: Evidence, parts: Iterable[Evidence]) -> None:
    """Raises UserError for the first example whose loss is not finite, where there are losses.

    Args:
      evidence: with all examples.
      parts: the same with some of the examples at a time.
    """
    if evidence.inputs is None or evidence.labels is None:
        return
    try:
        losses = np.concatenate([np.asarray(_losses(part)) for part in parts])
    except (TypeError, ValueError):
        return  # labels that the loss does not fit, for a criterion that does without it
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        first = bad[0]
        label = jax.tree.map(lambda leaf: np.asarray(leaf)[first].tolist(), evidence.labels)
        raise UserError(
            f"the loss of example {first} is {losses[first]}, its label {label}; allowed: finite "
            "losses; the cross entropy's labels go from 0 to the number of classes - 1"
        )


@jax.jit
def _losses(evidence: Evidence) -> jax.Array:
    return evidence.loss(evidence.apply(evidence.variables, *evidence.inputs), evidence.labels)


jax.tree_util.register_dataclass(
    Evidence,
    data_fields=["variables", "inputs", "labels", "key", "gates", "earlier"],
    meta_fields=["apply", "groups", "loss", "names"],
)


def kernel_members(group: Group, which: str) -> list[Member]:
    """The members of a group that are axes of kernels; see `Evidence.kernels`."""
    wanted = {"made": ("out",), "read": ("in",), "both": ("out", "in")}[which]
    for roles in (wanted, ("in", "out"), ("with",)):
        members = [m for m in group.members if m.role in roles]
        if members:
            return members
    raise ValueError(f"group {group.name!r} has no weights to judge it by; leave it out of names")


def rows(leaf: jax.Array, member: Member) -> jax.Array:
    """[units, numbers]: what every unit holds of an array."""
    found = jnp.moveaxis(jnp.asarray(leaf), member.axis, 0)[member.index]  # [units, k, ...]
    return found.reshape(member.index.shape[0], -1)
