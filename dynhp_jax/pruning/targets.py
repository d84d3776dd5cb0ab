"""What a network is pruned to: at most so many parameters, FLOPs, or bytes.

>>> import jax, jax.numpy as jnp, numpy as np
>>> from dynhp_jax import find_groups
>>> def apply(params, x):
...     return jax.nn.relu(x @ params["a"]) @ params["b"]
>>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 2))}
>>> groups = find_groups(apply, params, jnp.ones((8, 4)))
>>> Parameters(20).measure(groups, {}), Parameters(20).measure(groups, {"a": np.arange(3)})
(36, 18)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax

from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import of_variables
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.labels import axis_size
from dynhp_jax.jaxprs.trace import Traced, bytes_of, trace
from dynhp_jax.memory.compiled import compiled_bytes
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery.resized import dead_atoms


class Target(Protocol):
    """A limit and how it is measured. Fewer units never measure more, but for a compiler's whims.

    Attributes:
      most: the limit.
      what: what is counted, for messages.
      compiles: whether a look takes long, so that few are taken.
    """

    most: int
    what: str
    compiles: bool

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """What the network takes with these units left."""
        ...


class _Limit:
    compiles = False

    def __post_init__(self):
        found = self.most
        if isinstance(found, str):
            object.__setattr__(self, "most", parse_bytes(found, "most"))
        elif isinstance(found, bool) or not found >= 1:
            raise UserError(f"the target is at most {found!r} {self.what}; allowed: 1 or more")


@dataclasses.dataclass(frozen=True)
class Parameters(_Limit):
    """Numbers that are trained: those below 'params' or, without such a subtree, all variables.

    Attributes:
      most: how many may remain.
    """

    most: int
    what = "parameters"

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """How many remain."""
        shapes = _variables(groups, keeps)
        trained = {path: shape for path, shape in shapes.items() if path.startswith("params/")}
        return sum(math.prod(shape) for shape in (trained or shapes).values())


@dataclasses.dataclass(frozen=True)
class Units(_Limit):
    """Units of all groups together.

    Attributes:
      most: how many may remain.
    """

    most: int
    what = "units"

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """How many remain."""
        left = groups.check_keeps(keeps)
        return sum(left[name].size if name in left else groups[name].size for name in groups)


@dataclasses.dataclass(frozen=True)
class ModelBytes(_Limit):
    """Bytes of all variables, batch statistics included.

    Attributes:
      most: how many may remain; also as text ('100KiB').
    """

    most: int | str
    what = "bytes of the model"

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """How many remain."""
        shapes = _variables(groups, keeps)
        return sum(bytes_of(shape, groups.dtypes[path]) for path, shape in shapes.items())


@dataclasses.dataclass(frozen=True, eq=False)
class Flops(_Limit):
    """Work of the matrix products and convolutions of a forward pass: two per multiplication.

    Attributes:
      most: how many may remain.
      apply: the model, as the groups were found on it.
      variables: its variables, or their shapes.
      inputs: example inputs, or their shapes; the FLOPs are those of the whole batch.
    """

    most: float
    apply: Callable
    variables: Any
    inputs: tuple
    what = "FLOPs"

    @functools.cached_property
    def _traced(self) -> Traced:
        return trace(self.apply, self.variables, self.inputs)

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """How many remain.

        Raises:
          ValueError: the variables are not those of the groups, such as before another cut.
        """
        traced, keeps = self._traced, groups.check_keeps(keeps)
        for path, shape in of_variables(groups.shapes).items():
            if traced.shapes.get(path, shape) != shape:
                raise ValueError(
                    f"the target's variables have {path!r} of shape {traced.shapes[path]}, the"
                    f" groups {shape}; after a cut make a new Flops of the smaller model"
                )
        run = Run(traced.walk, dead_atoms(traced, groups, keeps) if keeps else None)
        shares = (
            contraction.flops * math.prod(run.size(a) / axis_size(a) for a in contraction.axes)
            for contraction in traced.walk.contractions
        )
        return round(sum(shares))


@dataclasses.dataclass(frozen=True, eq=False)
class StepBytes(_Limit):
    """Bytes of a training step, as a meter says.

    Attributes:
      most: how many it may take; also as text ('4MiB').
      meter: keeps -> bytes; `of_run` for the compiled steps of a run, `of_step` for your own.
    """

    most: int | str
    meter: Callable[[Keeps], int]
    what = "bytes of the training step"
    compiles = True

    def measure(self, groups: Groups, keeps: Keeps) -> int:
        """How many it takes."""
        return self.meter(groups.check_keeps(keeps))


def of_step(make: Callable[[Keeps], jax.stages.Compiled]) -> Callable[[Keeps], int]:
    """The meter of a step of your own.

    Args:
      make: keeps -> the compiled step of the smaller network, from
        `jax.jit(step, donate_argnums=...).lower(*shapes).compile()`.
    """

    def meter(keeps: Keeps) -> int:
        compiled = make(keeps)
        return compiled_bytes(compiled, ("all",) * len(compiled.args_info[0])).total

    return meter


def _variables(groups: Groups, keeps: Keeps) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables after a cut."""
    return of_variables(groups.shapes_after(keeps))
