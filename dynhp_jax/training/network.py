"""A model as the training loop sees it: two apply functions and the groups that are gated."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.jaxprs.trace import trace
from dynhp_jax.models.spec import Spec
from dynhp_jax.structure.find import find_groups
from dynhp_jax.structure.groups import Groups
from dynhp_jax.surgery.cut import cut

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A spec and the groups of its model.

    Attributes:
      spec: the static sizes.
      groups: those that are gated and may be pruned; the other ones stay whole.
      all_units: how many units the groups had before any were cut.
      example_shape: of the data set's examples, which the model may get flat; () if not known.
    """

    spec: Spec
    groups: Groups
    all_units: int = 0
    example_shape: tuple[int, ...] = ()

    def evaluate(self, variables: Variables, inputs: jax.Array) -> jax.Array:
        """Logits [batch, classes], with stored batch statistics."""
        return self.spec.module().apply(variables, inputs, train=False)

    def train(self, variables: Variables, inputs: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [batch, classes] and the collections that training updates: {} for most models."""
        changing = [name for name in variables if name != "params"]
        module = self.spec.module()
        if not changing:
            return module.apply(variables, inputs, train=True), {}
        logits, updates = module.apply(variables, inputs, train=True, mutable=changing)
        return logits, dict(updates)

    @functools.cached_property
    def slow_in_loops(self) -> bool:
        """Whether steps should not be put in a compiled loop: convolutions on a CPU.

        XLA computes a convolution inside a `while` without the library that is 4 to 5 times faster.
        """
        if jax.default_backend() != "cpu":
            return False
        example = jax.ShapeDtypeStruct((2, *self.spec.input_shape), jnp.float32)
        return "conv_general_dilated" in str(
            jax.make_jaxpr(self.evaluate)(self.spec.shapes(), example)
        )

    @functools.cached_property
    def flops(self) -> float:
        """Floating-point operations of a forward pass for one example."""
        example = jax.ShapeDtypeStruct((2, *self.spec.input_shape), jnp.float32)
        walk = trace(self.evaluate, self.spec.shapes(), (example,)).walk
        return sum(contraction.flops for contraction in walk.contractions) / 2

    @property
    def input_axes(self) -> dict[int, str]:
        """Which axes of the inputs hold units, and of which group: {axis: name}."""
        return {
            member.axis: name
            for name, group in self.groups.items()
            for member in group.members
            if member.path == "inputs/0"
        }

    def cut_inputs(self, inputs: np.ndarray, keeps: Mapping[str, np.ndarray]) -> np.ndarray:
        """The positions of the surviving units, of inputs that are still whole."""
        for axis in self.input_axes:
            kept = self.groups.positions("inputs/0", axis, self.groups.check_keeps(keeps))
            inputs = np.take(inputs, kept, axis=axis)
        return inputs

    def share(self, part: float) -> "Network":
        """The network with that part of the units of every group, rounded up."""
        groups = self.groups
        keeps = {name: np.arange(math.ceil(part * group.size)) for name, group in groups.items()}
        params = jax.eval_shape(lambda tree: cut(tree, groups, keeps), self.spec.shapes())["params"]
        return self.shrunk(params, keeps)

    def shrunk(self, params: Any, keeps: Mapping[str, np.ndarray]) -> "Network":
        """The network after a cut, with the same groups in it."""
        spec, groups = self.spec.resized(params), self.groups.shrunk(keeps)
        return dataclasses.replace(self, spec=spec, groups=groups)


def whole_network(spec: Spec, names: Sequence[str] | None, inputs: bool = True) -> Network:
    """The network before anything is pruned.

    Args:
      spec: its sizes.
      names: groups to gate; () for all that can be cut exactly, None for no group at all.
      inputs: whether () includes the group of the inputs.

    Raises:
      ConfigError: a name is no group of this model, or a group that cannot be cut exactly.
    """
    example = jax.ShapeDtypeStruct((2, *spec.input_shape), jnp.float32)
    network = Network(spec, Groups((), {}, {}))
    found = find_groups(network.evaluate, spec.shapes(), example)
    if names is None:
        names = ()
    elif not names:
        names = [name for name in found.prunable if inputs or name != "input"]
    for name in names:
        if name not in found.prunable:
            raise ConfigError("pruning.groups", tuple(names), f"names among {found.prunable}")
    groups = found.select(names)
    return Network(spec, groups, sum(group.size for group in groups.values()))
