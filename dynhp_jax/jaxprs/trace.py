"""From an apply function and its variables to an analysed jaxpr, and back to named leaves."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import ManualAxisType

from dynhp_jax.common.tree_paths import InputPath, Path, path_name
from dynhp_jax.jaxprs.analysis import analyse
from dynhp_jax.jaxprs.blocks import Arrays
from dynhp_jax.jaxprs.labels import Axis, Labels
from dynhp_jax.jaxprs.shardings import evenly, explicit
from dynhp_jax.jaxprs.values import Analysis, Value, Walk

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def abstract(tree: Any) -> Any:
    """The shapes and dtypes of a pytree of arrays; Python's numbers take on the dtype they meet."""
    return jax.tree.map(lambda leaf: abstract_of_shape(leaf, np.shape(leaf)), tree)


def abstract_of_shape(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """What `abstract` says of an array, but of another shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(shape=shape)
    dtype, known = jax.dtypes.result_type(leaf), jax.typeof(leaf)
    found = jax.ShapeDtypeStruct(shape, dtype, weak_type=known.weak_type)
    return typed_as(found, known)


def typed_as(found: jax.ShapeDtypeStruct, aval: Any) -> jax.ShapeDtypeStruct:
    """What among devices is split, or differs, as the type of an abstract value says.

    Types say so inside `shard_map`, and of the explicit axes of a mesh. The equations of a trace
    without it do not take the arrays themselves: there is no 'pvary' where arrays that differ meet
    those that do not, and what it fills with a number is not split as the arrays that it meets.
    """
    where = aval.sharding
    if aval.mat == ManualAxisType() and not explicit(where):
        return found
    where = evenly(where, aval.shape, found.shape)
    return found.update(sharding=where, manual_axis_type=aval.mat)


def varying(leaf: Any) -> frozenset[str]:
    """The mesh axes of `shard_map` along which an array is known to differ between devices."""
    return frozenset(jax.typeof(leaf).mat.varying)


@dataclasses.dataclass(eq=False)
class Traced:
    """An apply function as an analysed jaxpr.

    Attributes:
      walk: labels, contractions and roles.
      analysis: the values of all variables.
      leaves: path -> axes, of the variables ('params/...') and inputs (`InputPath`s: 'inputs/0').
      shapes: path -> shape.
      out_tree: structure of the results.
    """

    walk: Walk
    analysis: Analysis
    leaves: dict[Path, tuple[Axis, ...]]
    shapes: dict[Path, tuple[int, ...]]
    dtypes: dict[Path, Any]
    out_tree: Any

    @property
    def labels(self) -> Labels:
        return self.walk.labels

    @functools.cached_property
    def arrays(self) -> Arrays:
        """All arrays of the program."""
        return Arrays(self.analysis)

    @property
    def batch(self) -> np.ndarray | None:
        """Atoms of the batch axis (axis 0 of the first input), None if there is none."""
        return self.walk.batch


def trace(apply: Callable, variables: Any, inputs: Sequence[Any]) -> Traced:
    """Traces `apply(variables, *inputs)` and labels every axis of every array in it.

    Args:
      apply: pure function of a pytree of arrays and of inputs.
      variables: pytree of arrays or `jax.ShapeDtypeStruct`s.
      inputs: arrays, `jax.ShapeDtypeStruct`s, or pytrees of them; the first axis of the first
        array is the batch axis.

    Raises:
      ValueError: if the function has side effects (callbacks, prints, mutable references), or
        needs values where only shapes are known.
    """
    try:
        closed, out_shape = jax.make_jaxpr(apply, return_shape=True)(
            abstract(variables), *map(abstract, inputs)
        )
    except _NEEDS_VALUES as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"the apply function needs concrete values where only shapes are known: {first} "
            "Give it functions whose shapes and branches do not depend on data."
        ) from error
    # That an axis of shard_map is named is an effect of no consequence (its type is not public).
    effects = [each for each in closed.effects if type(each).__name__ != "NamedAxisEffect"]
    if effects:
        raise ValueError(
            f"the apply function has side effects ({', '.join(map(str, effects))}); "
            "remove callbacks, prints and in-place state, or return the state instead"
        )
    walk = Walk(Labels())
    values, leaves, shapes, dtypes = [], {}, {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        {"": abstract(variables), "inputs": abstract(tuple(inputs))}
    ):
        data = path[0].key == "inputs"
        name = (InputPath if data else str)(path_name(path).removeprefix("/"))
        if name in leaves:
            raise ValueError(f"two leaves are called {name!r}; rename one of them")
        sources = frozenset() if data else frozenset([name])
        values.append(
            Value(
                walk.labels.fresh_axes(leaf.shape),
                sources=sources,
                linear=not data,
                distinct=not data,
            )
        )
        walk.bind(values[-1])
        leaves[name], shapes[name], dtypes[name] = values[-1].axes, leaf.shape, leaf.dtype
        if data and leaf.shape and walk.batch is None:
            walk.batch, walk.examples_vary = values[-1].axes[0][0], varying(leaf)
            walk.labels.pin(walk.batch, "the batch axis")
    analysis = analyse(walk, closed.jaxpr, closed.consts, values)
    for value in analysis.outputs:
        walk.as_number(value, "an output")
    walk.tie_examples()
    out_tree = jax.tree.structure(out_shape)
    return Traced(walk, analysis, leaves, shapes, dtypes, out_tree)


def bytes_of(shape: Sequence[int], dtype: Any) -> int:
    """Bytes of an array; a typed PRNG key counts as nothing."""
    return (
        0
        if jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
        else (math.prod(shape) * np.dtype(dtype).itemsize)
    )
