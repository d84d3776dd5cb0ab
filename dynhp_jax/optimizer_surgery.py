"""Surgery on optimizer states: whatever mirrors the parameters is cut as they are.

Moments, accumulators, averaged copies: wherever an optimizer keeps an array of a parameter's shape
for that parameter, it loses the same slices, and the result is a state of the smaller parameters.
Which arrays those are is not guessed from names or shapes that happen to agree. `tx.init` is traced
(nothing is computed or allocated) once with the real sizes and once with sizes marked so that every
parameter changes by an amount of its own; a state array belongs to the parameter whose amount shows
up in its shape. That needs nothing of an optimizer but that its `init` can be traced, so masks and
labels that walk the parameters' paths, wrappers and states never seen before all work.
(`optax.tree_map_params` calls `init` with a placeholder instead of parameters, which label
functions written for dictionaries, and muon, do not survive.)

What cutting preserves. Let the dead slices of parameters and gradients be zero in the uncut
network, as they are when its units are masked.

- Optimizers that work number by number (sgd, momentum, adam, adamw, nadam, lion, rmsprop, their
  schedules, masks, partitions, averages, accumulation): further updates of the cut network are
  those of the uncut one, whatever the dead slices of parameters and moments hold.
- Optimizers that look at norms of whole arrays or of the whole tree (lamb and lars, clipping by
  global norm, adaptive clipping, normalised gradients, prodigy and its like): the same, as long as
  the dead slices are zero in everything that enters the norm. Dead gradients are, but lamb's norm
  is that of the update, so that moments of units that died after having learned, and dead weights
  that were not set to zero, still count there until they decay; in the cut network they do not.
- Optimizers that divide by the number of elements (clip_by_block_rms, adafactor's relative steps),
  scale by shapes (muon) or draw noise of the parameters' shapes: the state is cut, but the next
  updates of a smaller array are not the slices of those of a larger one.
- States that are not arrays of the parameters' shapes (adafactor's factored moments, sm3, L-BFGS
  histories, galore's projections) are refused by name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from dynhp_jax import surgery
from dynhp_jax.groups import Groups, Keeps
from dynhp_jax.jaxprs.trace import leaf_paths, path_name

Cut = Callable[[jax.Array], jax.Array]

REMEDY = (
    "use an optimizer whose state has the parameters' shapes (sgd, adam, lion, lamb, ...), keep "
    "the groups on this parameter whole, or start anew with tx.init(smaller parameters)"
)


def cut_optimizer(
    tx: optax.GradientTransformation,
    opt_state: Any,
    params: Any,
    groups: Groups,
    keeps: Keeps,
) -> Any:
    """The optimizer state of the smaller network.

    Args:
      tx: the optimizer; anything with an `init`.
      opt_state: its state for `params`.
      params: the parameters before the cut, as given to `tx.init` (arrays or shapes); with
        `optax.lookahead` the `LookaheadParams`.
      groups: groups over the paths of `params` (`groups.at('params')` for `variables['params']`).
      keeps: {group: sorted indices of the surviving units}; missing groups keep all.

    Returns:
      A state with the structure, shapes and dtypes of `tx.init(cut(params, groups, keeps))`, which
      continues where `opt_state` was (see the module's text for what that means exactly).

    Raises:
      ValueError: the state is not one of `tx` for `params`, or holds what cannot be cut; nothing
        is changed then.
    """
    return map_like_params(tx, opt_state, params, _plan(params, groups, keeps))


def map_like_params(
    tx: optax.GradientTransformation, opt_state: Any, params: Any, plan: Any
) -> Any:
    """Applies a function per parameter to every array of the state that mirrors the parameter.

    Args:
      tx: the optimizer.
      opt_state: its state for `params`.
      params: the parameters (arrays or shapes).
      plan: pytree like `params`; a leaf is the function that cuts this parameter, or None if it
        stays whole.

    Returns:
      The state of the smaller parameters.

    Raises:
      ValueError: as `cut_optimizer`.
    """
    shapes, treedef = jax.tree.flatten(_shapes(params))
    cuts = [cut or _whole for cut in treedef.flatten_up_to(plan)]
    smaller = [jax.eval_shape(cut, leaf) for cut, leaf in zip(cuts, shapes, strict=True)]
    marked = [
        _marked(leaf, small, mark)
        for mark, (leaf, small) in enumerate(zip(shapes, smaller, strict=True), start=1)
    ]
    before, probe, after = (
        _trace_init(tx, treedef.unflatten(leaves)) for leaves in (shapes, marked, smaller)
    )
    names = set(leaf_paths(params))
    _check(
        opt_state,
        before,
        names,
        "this is no state of tx for these params (one read from a file must be restored into the "
        "structure of tx.init(params))",
    )
    for other in (probe, after):
        _check(other, before, names, f"tx.init's structure depends on sizes; {REMEDY}", sizes=False)

    # A state array belongs to parameter i if it has this very pair of shapes.
    owner = {
        (leaf.shape, mark.shape): i
        for i, (leaf, mark) in enumerate(zip(shapes, marked, strict=True))
        if leaf.shape != mark.shape
    }

    def cut_leaf(path, leaf, old, new):
        if old.shape == new.shape:
            return leaf
        if (old.shape, new.shape) not in owner:
            raise ValueError(
                f"{_place(opt_state, path, names)} has shape {list(old.shape)}, which follows from "
                f"the parameters but is not their shape, so it cannot be cut; {REMEDY}"
            )
        return cuts[owner[old.shape, new.shape]](leaf)

    result = jax.tree_util.tree_map_with_path(cut_leaf, opt_state, before, probe)
    _check(result, after, names, REMEDY)
    return result


def _plan(params: Any, groups: Groups, keeps: Keeps) -> Any:
    """Tree like `params` of the functions that cut its leaves, None where a leaf stays whole."""
    if isinstance(params, optax.LookaheadParams):
        return optax.LookaheadParams(*(_plan(tree, groups, keeps) for tree in params))
    cuts = surgery.plan(groups, keeps)
    leaves, names = jax.tree.leaves(_shapes(params)), leaf_paths(params)
    surgery.check_tree(
        [(name, leaf.shape) for name, leaf in zip(names, leaves, strict=True)], groups.shapes
    )
    plan = [
        functools.partial(surgery.cut_leaf, cuts=cuts[name]) if name in cuts else None
        for name in names
    ]
    return jax.tree.structure(params).unflatten(plan)


def _whole(leaf: jax.Array) -> jax.Array:
    return leaf


def _shapes(tree: Any) -> Any:
    # eval_shape of the identity also knows Python numbers and typed PRNG keys.
    return jax.eval_shape(lambda leaves: leaves, tree)


def _marked(leaf: jax.ShapeDtypeStruct, small: jax.ShapeDtypeStruct, mark: int) -> Any:
    """The parameter with every axis that will be cut made longer by its own mark instead."""
    shape = tuple(
        size + mark * (size != less) for size, less in zip(leaf.shape, small.shape, strict=True)
    )
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _trace_init(tx: Any, params: Any) -> Any:
    try:
        return jax.eval_shape(tx.init, params)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"tx.init could not be traced for parameters of other sizes ({type(error).__name__}: "
            f"{reason}); it must accept any sizes and look at no values"
        ) from error


def _check(tree: Any, expected: Any, names: set[str], why: str, sizes: bool = True) -> None:
    """Raises ValueError at the first place where two states differ."""
    found, wanted = (
        dict(jax.tree_util.tree_leaves_with_path(_shapes(state))) for state in (tree, expected)
    )
    for path in [*wanted, *found]:
        if path not in found:
            raise ValueError(f"{_place(expected, path, names)} is missing; {why}")
        if path not in wanted:
            raise ValueError(f"{_place(tree, path, names)} is unexpected; {why}")
        one, other = found[path], wanted[path]
        if sizes and (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"{_place(tree, path, names)} is {one.dtype}{list(one.shape)}, expected "
                f"{other.dtype}{list(other.shape)}; {why}"
            )
    if jax.tree.structure(tree) != jax.tree.structure(expected):
        raise ValueError(f"the optimizer state is of another structure than tx.init gives; {why}")


def _place(state: Any, path: tuple, names: set[str]) -> str:
    """A place in an optimizer state for people: state class, field, parameter."""
    inside = next((i for i in range(len(path)) if path_name(path[i:]) in names), len(path))
    owner, node = "the optimizer state", state
    for i, key in enumerate(path[:inside]):
        if hasattr(node, "_fields") or dataclasses.is_dataclass(node):
            owner = f"{type(node).__name__}.{path_name(path[i : i + 1])}"
        node = _child(node, key)
    parameter = path_name(path[inside:])
    return f"{owner} for parameter {parameter!r}" if parameter else owner


def _child(node: Any, key: Any) -> Any:
    if isinstance(key, jax.tree_util.GetAttrKey):
        return getattr(node, key.name)
    return node[key.idx if hasattr(key, "idx") else key.key]
