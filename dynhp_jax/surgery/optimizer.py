"""Surgery on optimizer states: whatever mirrors the parameters is cut as they are.

Moments, accumulators, averaged copies: wherever an optimizer keeps an array of a parameter's shape
for that parameter, it loses the same slices, and the result is a state of the smaller parameters.
Which arrays those are is not guessed from names or shapes that happen to agree: `tx.init` is traced
(nothing is computed or allocated) several times, with some axes whole and some cut, so that every
axis of every parameter shows in the shapes that follow it (`mirrors`). That needs nothing of an
optimizer but that its `init` can be traced, so masks and labels that walk the parameters' paths,
wrappers and states never seen before all work.
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
  histories, galore's projections, Kronecker factors, transposed or concatenated copies, blocks of
  flattened ones) are refused by name. What has the same shape for parameters of any size (a count,
  but a sketch of fixed size as well) stays as it is: shapes cannot tell these apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from dynhp_jax.common.tree_paths import leaf_paths, path_name
from dynhp_jax.structure.groups import Groups, Keeps
from dynhp_jax.surgery import mirrors, wrapped_states
from dynhp_jax.surgery.cut import axis_cuts, check_tree, cut_leaf

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
      opt_state: its state for `params`; also as `nnx.Optimizer` holds it (its `opt_state`, or
        `nnx.state` of it), for `params` that are the `nnx.State` of its parameters.
      params: the parameters before the cut, as given to `tx.init` (arrays or shapes); with
        `optax.lookahead` the `LookaheadParams`.
      groups: groups over the paths of `params` (`groups.at('params')` for `variables['params']`).
      keeps: {group: sorted indices of the surviving units}; missing groups keep all.

    Returns:
      A state with the shapes and dtypes of `tx.init(cut(params, groups, keeps))`, in the structure
      of `opt_state`, which continues where that was (see the module's text for what that means
      exactly).

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
    leaves, treedef = jax.tree.flatten(_shapes(params))
    cuts = [cut or _whole for cut in treedef.flatten_up_to(plan)]
    smaller = [jax.eval_shape(cut, leaf) for cut, leaf in zip(cuts, leaves, strict=True)]
    whole, small = ([leaf.shape for leaf in each] for each in (leaves, smaller))
    names = set(leaf_paths(params))

    def init(shapes):
        resized = [leaf.update(shape=shape) for leaf, shape in zip(leaves, shapes, strict=True)]
        return _trace_init(tx, treedef.unflatten(resized))

    def init_alike(shapes):
        state = init(shapes)
        if jax.tree.structure(state) != jax.tree.structure(before):
            why = f"tx.init's structure depends on sizes; {REMEDY}"
            _check(state, before, names, why, sizes=False)
        return state

    before = init(whole)
    opt_state, back = wrapped_states.as_optax(opt_state, before)
    _check(
        opt_state,
        before,
        names,
        "this is no state of tx for these params (one read from a file must be restored into the "
        "structure of tx.init(params))",
    )
    after = init_alike(small)
    owners = mirrors.find(
        lambda shapes: [leaf.shape for leaf in jax.tree.leaves(init_alike(shapes))], whole, small
    )
    large = _leaves_by_place(init, mirrors.grown(whole, small))

    def cut_state(path, leaf, old, owner):
        # Padded to blocks, an array may have one shape for both sizes, and yet hold parameters.
        padded = owner is None and old.size > 1 and large.get(path, old).shape != old.shape
        if padded or owner == mirrors.UNLIKE:
            raise ValueError(
                f"{_place(opt_state, path, names)} has shape {list(old.shape)}, which follows from "
                f"the parameters but is not their shape, so it cannot be cut; {REMEDY}"
            )
        return leaf if owner is None else cuts[owner](leaf)

    places, structure = jax.tree_util.tree_flatten_with_path(opt_state)
    result = structure.unflatten(
        cut_state(path, leaf, old, owner)
        for (path, leaf), old, owner in zip(places, jax.tree.leaves(before), owners, strict=True)
    )
    _check(result, after, names, REMEDY)
    return back(result)


def _plan(params: Any, groups: Groups, keeps: Keeps) -> Any:
    """Tree like `params` of the functions that cut its leaves, None where a leaf stays whole."""
    if isinstance(params, optax.LookaheadParams):
        return optax.LookaheadParams(*(_plan(tree, groups, keeps) for tree in params))
    cuts = axis_cuts(groups, keeps)
    leaves, names = jax.tree.leaves(_shapes(params)), leaf_paths(params)
    check_tree(
        [(name, leaf.shape) for name, leaf in zip(names, leaves, strict=True)], groups.shapes
    )
    plan = [
        functools.partial(cut_leaf, cuts=cuts[name]) if name in cuts else None for name in names
    ]
    return jax.tree.structure(params).unflatten(plan)


def _whole(leaf: jax.Array) -> jax.Array:
    return leaf


def _shapes(tree: Any) -> Any:
    # eval_shape of the identity also knows Python numbers and typed PRNG keys. How arrays are split
    # among devices is left out: not every size of theirs could be.
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type),
        jax.eval_shape(lambda leaves: leaves, tree),
    )


def _leaves_by_place(init: Callable, shapes: list[mirrors.Shape]) -> dict[tuple, Any]:
    """The leaves of a state; none if there is no state for parameters of these shapes."""
    try:
        return dict(jax.tree_util.tree_leaves_with_path(init(shapes)))
    except ValueError:
        return {}


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
    children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda each: each is not node)
    return next((child for path, child in children if path == (key,)), None)
