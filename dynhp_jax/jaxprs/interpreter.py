"""Running an analysed jaxpr: with some units cut, and with hooks where units are read.

A run re-binds every equation. Where an axis has lost positions, the shapes that an equation carries
among its parameters are counted anew from the labels; where it holds positions as values (iota,
constants, random bits) the surviving ones are taken. What a hook sees and changes are the operands
of matrix products and convolutions, the places where units are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex
from jax.sharding import NamedSharding

from dynhp_jax.jaxprs.hooks import Hook, with_parts
from dynhp_jax.jaxprs.labels import Axis, axis_size
from dynhp_jax.jaxprs.rules.contractions import CONTRACTIONS
from dynhp_jax.jaxprs.shardings import evenly, take
from dynhp_jax.jaxprs.values import Analysis, Value, Walk

# What rules add to, by name of the primitive: `interpreter_resized` (an equation with operands that
# lack positions) and `interpreter_control` (an equation that holds jaxprs).
RESIZE: dict[str, Callable] = {}
BODIES: dict[str, Callable] = {}
Environment = MutableMapping[Any, Any]  # variable -> array
# Parameters that say how results are split among devices.
_SPLITS = ("sharding", "out_sharding", "dst_sharding", "devices")


@dataclasses.dataclass(eq=False)
class Run:
    """One evaluation: which atoms are cut, which hooks act.

    A mean over units divides by the number of all, of which those that are cut are zero; over
    units whose absence changes the others anyway ('uncounted') by the number of those left.
    """

    walk: Walk
    dead: np.ndarray | None = None  # atoms that are cut
    hook: Hook = dataclasses.field(default_factory=Hook)
    uncounted: np.ndarray | None = None  # atoms among them
    # What dies with either, and the state of the labels for which that was found.
    _masks: dict[str, np.ndarray] = dataclasses.field(init=False, repr=False)
    _version: int = dataclasses.field(default=-1, init=False, repr=False)

    def alive(self, axis: Axis) -> np.ndarray:
        """bool[size]: the surviving positions of an axis."""
        return self._without("dead", axis)

    def counted(self, axis: Axis) -> np.ndarray:
        """bool[size]: the positions of an axis that a mean over it counts."""
        return self._without("uncounted", axis)

    def _without(self, which: str, axis: Axis) -> np.ndarray:
        if getattr(self, which) is None:
            return np.ones(axis_size(axis), bool)
        labels = self.walk.labels
        if self._version != labels.version:
            self._masks, self._version = {}, labels.version
        if which not in self._masks:
            self._masks[which] = labels.dead_mask(getattr(self, which))
        return labels.alive(axis, self._masks[which])

    def is_cut(self, axis: Axis) -> bool:
        return self.dead is not None and not self.alive(axis).all()

    def size(self, axis: Axis) -> int:
        return int(np.count_nonzero(self.alive(axis)))

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(self.size(axis) for axis in value.axes)

    def cut(self, array: Any, value: Value, held: Value | None = None) -> Any:
        """The surviving part of an array of full size.

        Args:
          array: the array.
          value: its axes, as one reader sees them.
          held: its axes as it is held; along those that are the same it has been cut.
        """
        if self.dead is None or value is held:
            return array
        for d, axis in enumerate(value.axes):
            if held is not None and axis is held.axes[d]:
                continue
            alive = self.alive(axis)
            if not alive.all():
                array = take(array, np.flatnonzero(alive), d)
        return array

    def __call__(self, analysis: Analysis, args: Sequence[Any]) -> list[Any]:
        """Results of the analysed jaxpr on `args` (already cut)."""
        env = self.environment(analysis, args)
        self.evaluate(analysis, env, range(len(analysis.jaxpr.eqns)))
        return self.outputs(analysis, env)

    def environment(self, analysis: Analysis, args: Sequence[Any]) -> Environment:
        """The constants and the operands of the jaxpr, by variable."""
        env = dict(zip(analysis.jaxpr.constvars, analysis.consts, strict=True))
        env.update(zip(analysis.jaxpr.invars, args, strict=True))
        return env

    def outputs(self, analysis: Analysis, env: Environment) -> list[Any]:
        """The results of the jaxpr, of which all variables are known."""
        pairs = zip(analysis.jaxpr.outvars, analysis.outputs, strict=True)
        return [self._read(analysis, env, atom, copy) for atom, copy in pairs]

    def evaluate(self, analysis: Analysis, env: Environment, indices: Iterable[int]) -> None:
        """Runs some equations in their order; their results are added to what is known."""
        regions = self.hook.regions(analysis)
        for index in indices:
            region = regions.get(index)
            if region is None:
                self._evaluate(analysis, env, index)
            elif index == region.indices[-1]:
                env[region.result] = region.replace(env[region.source])

    def _evaluate(self, analysis: Analysis, env: Environment, index: int) -> None:
        eqn = analysis.jaxpr.eqns[index]
        pairs = zip(eqn.invars, analysis.operands[index], strict=True)
        operands = [self._read(analysis, env, atom, copy) for atom, copy in pairs]
        with _context(eqn):
            results = self._equation(analysis, index, eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))

    def _read(self, analysis: Analysis, env: Environment, atom: Any, copy: Value) -> Any:
        if isinstance(atom, jex.Literal):
            return self.cut(atom.val, copy)
        return self.cut(env[atom], copy, analysis.values[atom])

    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list[Any]) -> Sequence[Any]:
        name = eqn.primitive.name
        if index in analysis.inner:
            return BODIES[name](self, analysis, index, eqn, args)
        values = analysis.operands[index]
        args = self.hook.operands(eqn, values, args)

        def ordinary(*operands: Any) -> Sequence[Any]:
            if self.dead is None:
                return bind(eqn, operands)
            results = [analysis.values[var] for var in eqn.outvars]
            resplit = self._resplit(eqn, results)
            if name not in RESIZE:
                return bind(resplit, operands)
            return RESIZE[name](self, resplit, values, results, list(operands))

        if name in CONTRACTIONS:
            return with_parts(self.hook, eqn, values, args, ordinary)
        return self.hook.bind(eqn, values, args, ordinary)

    def _resplit(self, eqn: Any, results: list[Value]) -> Any:
        """The equation with shardings among its parameters that split what is left of its results.

        A parameter holds that of the one result, or of each (`device_put`).
        """

        def fitted(where: Any, k: int = 0) -> Any:
            if isinstance(where, tuple):
                return tuple(fitted(each, k) for k, each in enumerate(where))
            if not isinstance(where, NamedSharding):
                return where
            return evenly(where, eqn.outvars[k].aval.shape, self.shape(results[k]))

        params = {name: fitted(eqn.params[name]) for name in _SPLITS if name in eqn.params}
        return eqn.replace(params=eqn.params | params) if params else eqn


def bind(eqn: Any, args: Sequence[Any], **changed: Any) -> Sequence[Any]:
    """The results of an equation, always as a sequence, with some parameters changed."""
    params = {**eqn.primitive.get_bind_params(eqn.params), **changed}
    results = eqn.primitive.bind(*args, **params)
    return results if eqn.primitive.multiple_results else [results]


def _context(eqn: Any) -> Any:
    context = getattr(eqn, "ctx", None)
    return contextlib.nullcontext() if context is None else context.manager
