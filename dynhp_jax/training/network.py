"""A model as the training loop sees it: its functions, its task, the groups that are gated."""

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.tree_paths import InputPath, path_name
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.structure.find import find_groups
from dynhp_jax.structure.group import EXPERT, INPUT, VOCABULARY
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery.cut import cut
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.extension import PLAIN, Decided, Extension, reads_own

Variables = Mapping[str, Any]
CLASSIFICATION = Task()
LABEL = jax.ShapeDtypeStruct((), jnp.int32)  # of one example: the number of its class


class Model(Hashable, Protocol):
    """A network of some sizes. Equal ones share compiled programs.

    `models.spec.Spec` is one, of a shipped module that is built anew in other sizes;
    `training.own_model.OwnModel` another, of anybody's function that runs on smaller arrays.

    Attributes:
      example: shapes and types of one example's inputs, a pytree without the batch axis.
      draws: whether `train` needs a key.
      given: the variables at the start; None where `init` draws them.
    """

    example: Any
    draws: bool
    given: Any

    def shapes(self) -> dict[str, Any]:
        """Shapes and types of the variables; a dictionary of collections, 'params' among them."""

    def init(self, key: jax.Array) -> dict[str, Any]:
        """The variables at the start, traced; only of a model that came with none."""

    def evaluate(self, variables: Variables, inputs: Any) -> Any:
        """Outputs [batch, ...]; examples do not depend on each other."""

    def train(self, variables: Variables, inputs: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Outputs in training, and the collections that it updates."""

    def cut(self, params: Any, keeps: Keeps) -> Self:
        """The model of arrays that were cut.

        Args:
          params: the smaller collection 'params', arrays or shapes.
          keeps: by which it was, counted in this model's units.
        """

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of its sizes, as JSON."""

    def rebuilt(self, values: Mapping[str, Any], keeps: Keeps) -> Self:
        """The model that `to_dict` gave these values of; this one is whole.

        Args:
          values: from a checkpoint.
          keeps: units of this model that it holds.

        Raises:
          UserError: the values are of no such model.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model, its groups and its task.

    Attributes:
      model: of some sizes.
      groups: those that are gated and may be pruned; the other ones stay whole.
      task: what it is trained and judged by.
      target: shapes and types of one example's targets, a pytree without the batch axis.
      all_units: how many units the groups had before any were cut.
      unbound: the parts of a training step that a method replaces, for a model of any sizes; see
        `extension`.
      example_shape: of the data set's images, which the model may get flat; () if not known.
      decided: which sizes of what the extension keeps were decided in the run.
      pretrained: the variables at the start of a shipped model; None for those that the model came
        with, or draws.
    """

    model: Model
    groups: Groups
    task: Task = CLASSIFICATION
    target: Any = LABEL
    all_units: int = 0
    unbound: Extension = PLAIN
    example_shape: tuple[int, ...] = ()
    decided: Decided = ()
    pretrained: Any = None

    @property
    def given(self) -> Any:
        """The variables at the start; None where the model draws them."""
        return self.model.given if self.pretrained is None else self.pretrained

    def evaluate(self, variables: Variables, inputs: Any) -> Any:
        """Outputs [batch, ...], with stored batch statistics."""
        return self.model.evaluate(variables, inputs)

    def train(self, variables: Variables, inputs: Any, key: Any = ()) -> tuple[Any, dict[str, Any]]:
        """Outputs [batch, ...] and the collections that training updates: {} for most models."""
        return self.model.train(variables, inputs, key)

    @functools.cached_property
    def bound(self) -> Extension:
        """The parts of a training step that a method replaces, for this model."""
        inputs = batch_of(self.model.example, 2)
        return self.unbound.bound(self.evaluate, self.model.shapes(), inputs)

    @functools.cached_property
    def extension(self) -> Extension:
        """The same, for what was decided in the run."""
        return self.bound.sized(self.decided) if self.decided else self.bound

    def evaluated(self, state: Any) -> tuple[Any, ...]:
        """What an evaluation takes of a `TrainState`, arrays or shapes."""
        *others, own = state.evaluated
        return (*others, own if reads_own(self.extension) else ())

    @property
    def sizes(self) -> Hashable:
        """What tells the arrays of a state of this network from those of another."""
        return (self.model, self.unbound, self.decided)

    def deciding(self, decided: Decided) -> "Network":
        """The network with another decision of its extension; what is known of its model stays."""
        found = dataclasses.replace(self, decided=decided)
        of_model = ("bound", "sums", "slow_in_loops", "flops")
        found.__dict__.update({k: self.__dict__[k] for k in of_model if k in self.__dict__})
        return found

    @functools.cached_property
    def sums(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what the task's metrics sum up, by name."""

        def found(variables: Variables, inputs: Any, targets: Any) -> dict[str, jax.Array]:
            return self.task.sums(self.evaluate(variables, inputs), targets, None)

        examples = batch_of(self.model.example, 2), batch_of(self.target, 2)
        return jax.eval_shape(found, self.model.shapes(), *examples)

    @functools.cached_property
    def slow_in_loops(self) -> bool:
        """Whether steps should not be put in a compiled loop: convolutions on a CPU.

        XLA computes a convolution inside a `while` without the library that is 4 to 5 times faster.
        """
        if jax.default_backend() != "cpu":
            return False
        inputs = batch_of(self.model.example, 2)
        return "conv_general_dilated" in str(
            jax.make_jaxpr(self.evaluate)(self.model.shapes(), inputs)
        )

    @functools.cached_property
    def flops(self) -> float:
        """Floating-point operations of a forward pass for one example."""
        walk = trace(self.evaluate, self.model.shapes(), (batch_of(self.model.example, 2),)).walk
        return sum(contraction.flops for contraction in walk.contractions) / 2

    @property
    def input_axes(self) -> dict[tuple[str, int], str]:
        """Which axes of the inputs hold units, and of which group: {(path, axis): name}."""
        return {
            (member.path, member.axis): name
            for name, group in self.groups.items()
            for member in group.members
            if isinstance(member.path, InputPath)
        }

    def cut_inputs(self, inputs: Any, keeps: Keeps) -> Any:
        """The positions of the surviving units, of inputs (NumPy's, JAX's) that are still whole."""
        axes, keeps = self.input_axes, self.groups.check_keeps(keeps)

        def smaller(path: Any, leaf: Any) -> Any:
            name = path_name((jax.tree_util.SequenceKey(0), *path))
            for held, axis in axes:
                if held == f"inputs/{name}":
                    leaf = leaf.take(self.groups.positions(held, axis, keeps), axis=axis)
            return leaf

        return jax.tree_util.tree_map_with_path(smaller, inputs)

    def share(self, part: float) -> "Network":
        """The network with that part of the units of every group, rounded up."""
        groups = self.groups
        return self.part(
            {name: np.arange(math.ceil(part * group.size)) for name, group in groups.items()}
        )

    def part(self, keeps: Keeps) -> "Network":
        """The network with these of its units only."""
        groups = self.groups
        shapes = jax.eval_shape(lambda tree: cut(tree, groups, keeps), self.model.shapes())
        return self.shrunk(shapes["params"], keeps)

    def shrunk(self, params: Any, keeps: Keeps) -> "Network":
        """The network after a cut, with the same groups in it; its extension decides anew."""
        model, groups = self.model.cut(params, keeps), self.groups.shrunk(keeps)
        return dataclasses.replace(self, model=model, groups=groups, decided=())


def batch_of(example: Any, size: int) -> Any:
    """Shapes of so many examples, from those of one; the inverse of `data.pairs.example_of`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), jnp.dtype(leaf.dtype)), example
    )


def whole_network(
    model: Model,
    names: Sequence[str] | None,
    inputs: bool = True,
    task: Task = CLASSIFICATION,
    target: Any = LABEL,
    found: Groups | None = None,
) -> Network:
    """The network before anything is pruned.

    Args:
      model: of its sizes.
      names: groups to gate; () for all that can be cut exactly but vocabularies and experts, None
        for no group at all.
      inputs: whether () includes the groups of the inputs.
      task, target: see `Network`.
      found: all groups of the model, if they are known; None to find them here.

    Raises:
      ConfigError: a name is no group of this model, or a group that cannot be cut exactly.
    """
    if found is None:
        found = find_groups(model.evaluate, model.shapes(), batch_of(model.example, 2))
    if names is None:
        names = ()
    elif not names:
        left_alone = {VOCABULARY, EXPERT} if inputs else {VOCABULARY, EXPERT, INPUT}
        names = [name for name in found.prunable if found[name].kind not in left_alone]
    for name in names:
        if name not in found.prunable:
            raise ConfigError("pruning.groups", tuple(names), f"names among {found.prunable}")
    groups = found.select(names)
    return Network(model, groups, task, target, sum(group.size for group in groups.values()))
