"""Anybody's model in the engine: its function is kept, and runs on arrays that became smaller.

A shipped model is built anew in other sizes. A model of your own need not be: `surgery.resized`
runs its function on the smaller arrays. Where the function comes from is in `model_sources`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.schema import Unfit
from dynhp_jax.common.tree_paths import InputPath
from dynhp_jax.jaxprs.trace import abstract
from dynhp_jax.structure.find import find_groups
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.keeps import compose
from dynhp_jax.surgery.resized import resized
from dynhp_jax.training.network import batch_of


@dataclasses.dataclass(frozen=True, eq=False)
class Functions:
    """A model as two functions; equal only to itself.

    Attributes:
      evaluate: `evaluate(variables, inputs) -> outputs [batch, ...]`, without randomness.
      train: `train(variables, inputs, key) -> (outputs, updates)`: in training; `updates` are the
        collections of the variables that change, {} for none.
      draws: whether `train` reads its key.
    """

    evaluate: Callable[[Any, Any], Any]
    train: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]
    draws: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A model before anything is cut; equal only to itself.

    Attributes:
      functions: of it.
      variables: at the start, {'params': ..., and other collections}.
      example: shapes and types of one example's inputs.
      statistics: what a normalisation looks at once units are gone, see `find_groups`.
    """

    functions: Functions
    variables: Mapping[str, Any]
    example: Any
    statistics: str = "left"

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """Of the variables."""
        return abstract(dict(self.variables))

    @functools.cached_property
    def groups(self) -> Groups:
        """All of the model."""
        two = batch_of(self.example, 2)
        return find_groups(self.functions.evaluate, self.shapes, two, statistics=self.statistics)


@dataclasses.dataclass(frozen=True)
class OwnModel:
    """A `training.network.Model`: some units of a source.

    Attributes:
      source: whole.
      kept: (group, units, digest of which) of every group that has lost some.
      keeps: which; of the whole model.
    """

    source: Source
    kept: tuple[tuple[str, int, str], ...] = ()
    keeps: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def example(self) -> Any:
        """Shapes and types of one example's inputs, without the positions that were cut."""
        if not self.keeps:
            return self.source.example
        shapes = self.source.groups.shapes_after(self.keeps)
        left = [shape[1:] for path, shape in shapes.items() if isinstance(path, InputPath)]
        leaves, tree = jax.tree.flatten(self.source.example)
        pairs = zip(left, leaves, strict=True)
        return tree.unflatten(jax.ShapeDtypeStruct(shape, leaf.dtype) for shape, leaf in pairs)

    @property
    def draws(self) -> bool:
        """Whether `train` needs a key."""
        return self.source.functions.draws

    def shapes(self) -> dict[str, Any]:
        """Shapes and types of the variables."""
        if not self.keeps:
            return dict(self.source.shapes)
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> dict[str, Any]:
        groups, keeps = self.source.groups, self.keeps
        return jax.eval_shape(lambda tree: cut(tree, groups, keeps), self.source.shapes)

    @property
    def given(self) -> dict[str, Any]:
        """The variables that the model came with."""
        return dict(self.source.variables)

    def evaluate(self, variables: Any, inputs: Any) -> Any:
        """Outputs [batch, ...]."""
        return self._resized(self.source.functions.evaluate)(variables, inputs)

    def train(self, variables: Any, inputs: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Outputs in training, and the collections that it updates."""
        outputs, updates = self._resized(self.source.functions.train)(variables, inputs, key)
        return outputs, {name: value for name, value in updates.items() if name != "params"}

    def _resized(self, function: Callable) -> Callable:
        if not self.keeps:
            return function
        return resized(function, self.source.shapes, self.source.groups, self.keeps)

    def cut(self, params: Any, keeps: Keeps) -> "OwnModel":
        """The model with these of its units; see `training.network.Model`."""
        groups = self.source.groups
        return self._of(compose(groups, self.keeps, keeps) if self.keeps else keeps)

    def _of(self, keeps: Keeps) -> "OwnModel":
        groups = self.source.groups
        lost = {n: np.asarray(k, np.int64) for n, k in keeps.items() if len(k) < groups[n].size}
        kept = tuple(
            (name, len(keep), hashlib.sha256(keep.tobytes()).hexdigest())
            for name, keep in sorted(lost.items())
        )
        return OwnModel(self.source, kept, lost)

    def to_dict(self) -> dict[str, Any]:
        """How many units of each group are left; which, the checkpoint says elsewhere."""
        return {"model": "own", "units": {name: size for name, size, _ in self.kept}}

    def rebuilt(self, values: Mapping[str, Any], keeps: Keeps) -> "OwnModel":
        """The model of a checkpoint."""
        found = self._of(keeps)
        if found.to_dict() != values:
            raise Unfit(f"it is of a model {values}, its keeps are of {found.to_dict()}")
        return found
