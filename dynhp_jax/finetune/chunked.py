"""What lies below the lowest trained layer, in parts of the batch.

Nothing is kept below it, but its widest activations are alive for the whole batch at once, and no
choice of rows gets below that. In parts only the activations at the cut are as large as the batch.
The function is traced again for a part; its equations below the cut run in a loop over the parts,
and the rest runs on the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from dynhp_jax.batch_size import independence
from dynhp_jax.batch_size.batch_axis import BatchAxis
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import InputPath, Path
from dynhp_jax.finetune.kernel_products import KernelReads
from dynhp_jax.jaxprs.interpreter import Run, bind
from dynhp_jax.jaxprs.rules.contractions import CONTRACTIONS
from dynhp_jax.jaxprs.trace import Traced, trace
from dynhp_jax.jaxprs.transforms import with_layers
from dynhp_jax.jaxprs.values import Analysis, Value

_INLINED = frozenset(("jit", "pjit", "call", "closed_call", "core_call"))


def chunked_prefix(apply: Callable, below: Path | Collection[Path], chunk: int) -> Callable:
    """Runs what does not depend on the trained layers in parts of the batch.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, or what a transform made of one.
      below: path of the lowest kernel that may be trained, or of all of them: of the pool that rows
        are drawn from, not of one draw.
      chunk: examples of a part; the last part may have fewer.

    Returns:
      `f(variables, *inputs) -> outputs`, with the arguments and the outputs of `apply`.

    Raises:
      UserError: `chunk` is below 1; when called: a kernel that is not there, or a part below it
        that mixes examples, draws at random or depends on how many examples there are.
    """
    if chunk < 1:
        raise UserError(f"chunk is {chunk}; allowed: at least 1 example")
    paths = (below,) if isinstance(below, str) else tuple(below)
    core = getattr(apply, "transformed", apply)

    def in_parts(variables: Any, *inputs: Any) -> Any:
        traced = trace(core, variables, inputs)
        KernelReads(traced).check(paths)
        if traced.batch is None or traced.batch.size <= chunk:
            return core(variables, *inputs)
        flat = _inlined(core)
        split = _Split(trace(flat, variables, inputs), paths)
        leaves = jax.tree.leaves(variables), jax.tree.leaves(inputs)

        def part_of(size: int) -> Callable:
            small = trace(flat, variables, split.inputs_of(inputs, size))
            return lambda own: split.prefix(small, [*leaves[0], *own])

        known = split.in_parts(part_of, leaves[1], chunk)
        return jax.tree.unflatten(traced.out_tree, split.rest([*leaves[0], *leaves[1]], known))

    return with_layers(in_parts, getattr(apply, "transforms", ()))


def _inlined(apply: Callable) -> Callable:
    """The function without calls around its products, so that what is below a layer is in sight."""

    def flat(variables: Any, *inputs: Any) -> Any:
        traced = trace(apply, variables, inputs)
        out = _Inlined(traced.walk)(traced.analysis, jax.tree.leaves((variables, inputs)))
        return jax.tree.unflatten(traced.out_tree, out)

    return flat


class _Inlined(Run):
    def _equation(self, analysis: Analysis, index: int, eqn: Any, args: list) -> Sequence[Any]:
        if eqn.primitive.name in _INLINED and not _has_products(analysis.inner[index][0]):
            return bind(eqn, args)
        return super()._equation(analysis, index, eqn, args)


def _has_products(analysis: Analysis) -> bool:
    return any(eqn.primitive.name in CONTRACTIONS for eqn in analysis.jaxpr.eqns) or any(
        _has_products(body) for bodies in analysis.inner.values() for body in bodies
    )


class _Split:
    """A traced function in two: what depends on the trained leaves, and the examples' way there.

    Attributes:
      early: indices of equations on the examples' way, which depend on no trained leaf.
      late: of all others.
      cut: variables that early equations make and others read.
    """

    def __init__(self, traced: Traced, paths: Collection[Path]):
        self.traced, self.batch = traced, BatchAxis(traced)
        analysis = traced.analysis
        jaxpr = analysis.jaxpr
        named = zip(traced.leaves, jaxpr.invars, strict=True)
        trained = {var for path, var in named if path in paths}
        self.early, self.late = [], []
        made: set[Any] = set()
        for index, eqn in enumerate(jaxpr.eqns):
            read = [atom for atom in eqn.invars if not isinstance(atom, jex.Literal)]
            if trained.intersection(read):
                trained.update(eqn.outvars)
                self.late.append(index)
            elif any(self._with_examples(analysis.values[var]) for var in (*read, *eqn.outvars)):
                self.early.append(index)
                made.update(eqn.outvars)
            else:
                self.early.append(index)  # of weights alone; both sides may read it
                self.late.append(index)
        wanted = {atom for k in self.late for atom in map(_key, jaxpr.eqns[k].invars)}
        wanted |= set(map(_key, jaxpr.outvars))
        self.cut = [v for k in self.early for v in jaxpr.eqns[k].outvars if v in made & wanted]
        self._check()

    def _with_examples(self, value: Value) -> bool:
        return self.batch.of(value) is not None

    def _check(self) -> None:
        analysis = self.traced.analysis
        eqns = [analysis.jaxpr.eqns[k] for k in self.early]
        part = dataclasses.replace(
            analysis,
            jaxpr=analysis.jaxpr.replace(eqns=eqns),
            operands=[analysis.operands[k] for k in self.early],
            inner={n: analysis.inner[k] for n, k in enumerate(self.early) if k in analysis.inner},
        )
        try:
            independence.check(part, self.batch.on)
        except ValueError as error:
            why = str(error).split(";")[0]
            raise UserError(
                f"what is below the trained layers cannot run in parts of the batch: {why}; run it"
                " in evaluation mode, or without chunks"
            ) from error
        for var in self.cut:
            value = analysis.values[var]
            d = self.batch.of(value)
            if d is None or not self.batch.leads(value.axes[d]):
                raise UserError(
                    "what is below the trained layers cannot run in parts of the batch: examples"
                    f" do not lead an axis of an array of shape {var.aval.shape} at the cut"
                )

    def inputs_of(self, inputs: tuple, size: int) -> Any:
        """The shapes of the inputs for so many examples."""
        leaves, structure = jax.tree.flatten(inputs)
        shapes = []
        for leaf, d in zip(leaves, self._axes(), strict=True):
            shape = list(jnp.shape(leaf))
            if d is not None:
                shape[d] = shape[d] // self.traced.batch.size * size
            shapes.append(jax.ShapeDtypeStruct(shape, jnp.result_type(leaf)))
        return structure.unflatten(shapes)

    def _axes(self) -> list[int | None]:
        """For every leaf of the inputs its axis of examples."""
        leaves = self.traced.leaves.items()
        return [self.batch.of(Value(axes)) for path, axes in leaves if isinstance(path, InputPath)]

    def in_parts(self, part_of: Callable, inputs: list[Any], chunk: int) -> dict[Any, Any]:
        """The arrays at the cut, by variable, computed `chunk` examples at a time."""
        examples, axes = self.traced.batch.size, self._axes()
        parts, rest = divmod(examples, chunk)
        of_cut = [self.batch.of(self.traced.analysis.values[var]) for var in self.cut]

        def take(leaf: Any, d: int | None, start: int, count: int) -> Any:
            if d is None:
                return leaf
            each = leaf.shape[d] // examples
            return lax.slice_in_dim(leaf, start * each, (start + count) * each, axis=d)

        pairs = [(jnp.asarray(x), d) for x, d in zip(inputs, axes, strict=True)]
        whole = [take(x, d, 0, parts * chunk) for x, d in pairs]
        moved = [x for x, d in zip(whole, axes, strict=True) if d is not None]
        places = [d for d in axes if d is not None]
        run = part_of(chunk)

        def one(slices: list[Any]) -> list[Any]:
            own = iter(slices)
            return run([x if d is None else next(own) for x, d in zip(whole, axes, strict=True)])

        stacked = [
            jnp.moveaxis(x.reshape(*x.shape[:d], parts, -1, *x.shape[d + 1 :]), d, 0)
            for x, d in zip(moved, places, strict=True)
        ]
        found = []
        for x, d in zip(lax.map(one, stacked), of_cut, strict=True):
            x = jnp.moveaxis(x, 0, d)
            found.append(x.reshape(*x.shape[:d], -1, *x.shape[d + 2 :]))
        if rest:
            start = parts * chunk
            last = part_of(rest)([take(x, d, start, rest) for x, d in pairs])
            both = zip(found, last, of_cut, strict=True)
            found = [jnp.concatenate([a, b], d) for a, b, d in both]
        return dict(zip(self.cut, found, strict=True))

    def prefix(self, small: Traced, leaves: list[Any]) -> list[Any]:
        """The arrays at the cut for a part, from the function's trace for its size."""
        before, after = self.traced.analysis.jaxpr.eqns, small.analysis.jaxpr.eqns
        self._check_alike(before, after)
        run = Run(small.walk)
        env = run.environment(small.analysis, leaves)
        run.evaluate(small.analysis, env, self.early)
        place = {var: (k, n) for k, eqn in enumerate(before) for n, var in enumerate(eqn.outvars)}
        return [env[after[k].outvars[n]] for k, n in (place[var] for var in self.cut)]

    def _check_alike(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        names = [[eqn.primitive.name for eqn in eqns] for eqns in (before, after)]
        if names[0] != names[1]:
            raise UserError(
                "the function is another one for fewer examples, so that it cannot run in parts of"
                " the batch; leave out chunked_prefix"
            )
        values = self.traced.analysis.values
        for k in self.early:
            eqn, other = before[k], after[k]
            known = [a for a in eqn.invars if not isinstance(a, jex.Literal)]
            larger = any(
                a.aval.shape != b.aval.shape
                for a, b in zip(eqn.outvars, other.outvars, strict=True)
            )
            alone = not any(self._with_examples(values[atom]) for atom in known)
            if larger and alone and eqn.primitive.name != "broadcast_in_dim":
                raise UserError(
                    f"below the trained layers '{eqn.primitive.name}' makes something for each"
                    " example without reading it (dropout?), which parts of the batch would"
                    " repeat; run it in evaluation mode, or without chunks"
                )

    def rest(self, leaves: list[Any], known: dict[Any, Any]) -> list[Any]:
        """The outputs, where the arrays at the cut are known."""
        run, analysis = Run(self.traced.walk), self.traced.analysis
        env = run.environment(analysis, leaves)
        env.update(known)
        run.evaluate(analysis, env, self.late)
        return run.outputs(analysis, env)


def _key(atom: Any) -> Any:
    return None if isinstance(atom, jex.Literal) else atom
