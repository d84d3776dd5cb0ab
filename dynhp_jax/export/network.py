"""The finished network: its arrays hold no unit that is gone, its weights hold the gates.

A gate multiplies a unit where it is read, so it goes into the rows of the kernels that read the
unit; those are the leaves that the group names with the role 'in'. That is exact through whatever
lies between the unit and its readers. It is not where a kernel also makes units (a tied embedding),
where two computed arrays are multiplied, or in a sum of squares: there the multiplication stays.

Which of the two it is, is asked of the function itself: the network with a gate in its weights and
the one with the multiplication have to agree, with gates drawn at random. Both run in one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.tree_paths import InputPath, path_name
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.surgery.cut import axis_cuts, cut
from dynhp_jax.surgery.resized import resized

_AGREE = 1e-3  # of the largest output; a gate that is put in a wrong place changes it by more
_EXAMPLES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A network without units that are gone, and with its gates in its weights.

    Attributes:
      apply: `apply(variables, inputs) -> outputs`, for whole examples; it can be jitted.
      variables: the smaller arrays, with the gates that could be folded into them.
      gates: {group: f32[units]} of those that could not; `apply` multiplies by them.
      inputs: {(path, axis): positions} of the inputs that are read, of those that lost some;
        'inputs/0' is an input that is one array.
      example: shapes and types of one whole example, a pytree without the batch axis.
      groups: of the smaller network.
      keeps: which units of the whole network are left.
      spec: sizes of a shipped model: `spec.module()` with `variables` is the same network where no
        gates are left and the inputs are cut; None for a model of your own.
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    gates: dict[str, np.ndarray]
    inputs: dict[tuple[str, int], np.ndarray]
    example: Any
    groups: Groups
    keeps: UnitKeeps
    spec: Any = None

    @property
    def parameters(self) -> int:
        """How many numbers the variables hold."""
        return sum(np.size(leaf) for leaf in jax.tree.leaves(self.variables))

    def __call__(self, inputs: Any) -> Any:
        """Outputs of whole examples."""
        return self.apply(self.variables, inputs)


def finish(
    apply: Callable,
    variables: Any,
    groups: Groups,
    keeps: Keeps | None = None,
    gates: Mapping[str, Any] | None = None,
) -> Finished:
    """The finished network of any function.

    Args:
      apply: `apply(variables, inputs) -> outputs`, without gates, of the network before any cut.
      variables: its arrays, before any cut.
      groups: from `find_groups` on them, with one input.
      keeps: {group: sorted indices} of the units that stay; a missing group keeps all.
      gates: {group: f32[units]}, counted before the cut or after it; a missing group has none. A
        unit whose gate is 0 goes, too, but the last one of a group.

    Raises:
      ValueError: for keeps that are not allowed, or gates of other sizes.

    >>> import jax.numpy as jnp
    >>> from dynhp_jax import find_groups
    >>> def net(params, x):
    ...     return jax.nn.relu(x @ params["a"]) @ params["b"]
    >>> params = {"a": jnp.ones((4, 3)), "b": jnp.ones((3, 2))}
    >>> groups = find_groups(net, params, jnp.ones((8, 4)))
    >>> small = finish(net, params, groups, {"a": [0, 2]}, {"a": [0.5, 1.0, 1.0]})
    >>> small.variables["b"].tolist(), small.gates
    ([[0.5, 0.5], [1.0, 1.0]], {})
    """
    keeps = groups.check_keeps({name: np.asarray(keep) for name, keep in (keeps or {}).items()})
    gates, keeps = _open_gates(groups, keeps, gates or {})
    small = cut(variables, groups, keeps)
    run = resized(apply, variables, groups, keeps) if keeps else apply
    after = groups.shrunk(keeps)
    return finished(run, small, after, gates, keeps, _read(groups, keeps), _example(groups))


def finished(
    apply: Callable,
    variables: Any,
    groups: Groups,
    gates: Mapping[str, Any],
    keeps: UnitKeeps,
    inputs: Mapping[tuple[str, int], np.ndarray],
    example: Any,
    spec: Any = None,
) -> Finished:
    """The finished network of a function that was cut; the arguments are as in `Finished`.

    Args:
      apply: without gates, for inputs that are whole or cut.
      gates: of all groups that have some.
    """
    inputs = dict(inputs)

    def taken(whole: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda p, x: _taken(p, x, inputs), whole)

    gates = {name: np.asarray(gate, np.float32) for name, gate in gates.items()}
    gates = {name: gate for name, gate in gates.items() if (gate != 1).any()}
    with_gates = gated(apply, groups)
    folded = _foldable(with_gates, variables, groups, gates, taken, example) if gates else ()
    left = {name: gate for name, gate in gates.items() if name not in folded}

    def run(variables: Any, whole: Any) -> Any:
        cut_inputs = taken(whole)
        return with_gates(variables, left, cut_inputs) if left else apply(variables, cut_inputs)

    small = _folded(variables, groups, {name: gates[name] for name in folded})
    return Finished(run, small, left, inputs, example, groups, keeps, spec)


def _open_gates(groups: Groups, keeps: UnitKeeps, gates: Mapping[str, Any]) -> tuple:
    """Gates of the units that stay, and keeps without the units whose gates are closed."""
    groups.check_names(list(gates))
    stay = dict(keeps)
    for name, gate in gates.items():
        gate, size = np.asarray(gate, np.float32), groups[name].size
        keep = np.asarray(keeps.get(name, np.arange(size)))
        if gate.shape not in ((size,), (keep.size,)):
            raise ValueError(
                f"gates of group {name!r} have shape {gate.shape}; allowed: ({size},), one for each"
                f" unit, or ({keep.size},), one for each that is left"
            )
        if gate.shape == (keep.size,):
            whole = np.ones(size, np.float32)
            whole[keep] = gate
            gate = whole
        gates = {**gates, name: gate}
        if groups[name].exact and groups[name].blocks == 1 and not groups[name].chosen:
            opened = keep[gate[keep] != 0]
            stay[name] = opened if opened.size else keep[:1]
    checked = groups.check_keeps(stay)
    return {name: gate[checked[name]] if name in checked else gate
            for name, gate in gates.items()}, checked  # fmt: skip


def _folded(variables: Any, groups: Groups, gates: Mapping[str, Any]) -> Any:
    """Variables whose kernels' rows hold the gates of the units that they read."""
    factors: dict[str, list[tuple[int, Any]]] = {}
    for name, gate in gates.items():
        padded = jnp.concatenate([jnp.asarray(gate), jnp.ones(1, jnp.float32)])
        for m in groups[name].members:
            if m.role == "in":
                units = m.units_at(groups.shapes[m.path][m.axis])
                factors.setdefault(m.path, []).append((m.axis, padded[units].prod(0)))

    def multiplied(path: Any, leaf: Any) -> Any:
        for axis, factor in factors.get(path_name(path), ()):
            shape = [1] * np.ndim(leaf)
            shape[axis] = -1
            leaf = leaf * jnp.asarray(factor, leaf.dtype).reshape(shape)
        return leaf

    return jax.tree_util.tree_map_with_path(multiplied, variables)


def _foldable(
    with_gates: Callable,
    variables: Any,
    groups: Groups,
    gates: Mapping[str, Any],
    taken: Callable,
    example: Any,
) -> tuple[str, ...]:
    """The groups whose gates can be in the weights: the function is the same with them there."""
    inputs = taken(_drawn(example, np.random.default_rng(0)))
    rng = np.random.default_rng(1)
    drawn = {n: jnp.asarray(rng.uniform(0.5, 1.5, g.shape), jnp.float32) for n, g in gates.items()}
    ones = {name: jnp.ones_like(gate) for name, gate in drawn.items()}

    @jax.jit
    def difference(inside: Any, outside: Any) -> jax.Array:
        one = with_gates(variables, {n: inside[n] * outside[n] for n in inside}, inputs)
        other = with_gates(_folded(variables, groups, inside), outside, inputs)
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return jnp.stack([jnp.abs(a - b).max() / (jnp.abs(a).max() + 1e-30) for a, b in pairs])

    def agree(names: Any) -> bool:
        inside = {name: drawn[name] if name in names else ones[name] for name in drawn}
        outside = {name: ones[name] if name in names else drawn[name] for name in drawn}
        return bool((difference(inside, outside) < _AGREE).all())

    if agree(drawn):
        return tuple(drawn)
    return tuple(name for name in drawn if agree([name]))


def _drawn(example: Any, rng: np.random.Generator) -> Any:
    """Some examples; whole numbers are 0 and 1, which every vocabulary has."""

    def draw(leaf: Any) -> Any:
        shape = (_EXAMPLES, *leaf.shape)
        if np.issubdtype(leaf.dtype, np.inexact):
            return jnp.asarray(rng.normal(size=shape), leaf.dtype)
        return jnp.asarray(rng.integers(0, 2, shape), leaf.dtype)

    return jax.tree.map(draw, example)


def _read(groups: Groups, keeps: UnitKeeps) -> dict[tuple[str, int], np.ndarray]:
    """Which positions of the inputs are read, where some are not."""
    cuts = axis_cuts(groups, keeps)
    return {
        (str(path), axis): positions
        for path, each in cuts.items()
        if isinstance(path, InputPath)
        for axis, positions in each
    }


def _example(groups: Groups) -> Any:
    """One example, of a function with one input that is an array or a mapping of arrays."""
    found = {
        path.removeprefix("inputs/"): jax.ShapeDtypeStruct(shape[1:], groups.dtypes[path])
        for path, shape in groups.shapes.items()
        if isinstance(path, InputPath)
    }
    if set(found) == {"0"}:
        return found["0"]
    if all(path.startswith("0/") for path in found):
        return {path.removeprefix("0/"): leaf for path, leaf in found.items()}
    raise ValueError(
        f"the function has the inputs {', '.join(sorted(found))}; export takes a function of one"
        " input, an array or a dictionary of arrays: wrap it in one that takes a dictionary"
    )


def _taken(path: Any, leaf: Any, inputs: Mapping[tuple[str, int], np.ndarray]) -> Any:
    name = "/".join(filter(None, ["inputs/0", path_name(path)]))
    for (held, axis), positions in inputs.items():
        if held == name:
            leaf = jnp.take(jnp.asarray(leaf), positions, axis=axis)
    return leaf
