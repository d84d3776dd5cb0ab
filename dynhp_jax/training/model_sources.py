"""A plain function, a Linen module or an NNX module as the two functions that the engine calls."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import example_of
from dynhp_jax.training.own_model import Functions, Source

# How modules call the argument that says whether they are trained, and what it is in training.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def source_of(model: Any, variables: Any, inputs: Any, seed: int = 0) -> Source:
    """What the engine needs to know of a model.

    Args:
      model: a function `apply(variables, inputs) -> outputs`, a Linen module, an NNX module, or
        `Functions`. A function may take `train`, `training`, `is_training`, `deterministic` or
        `use_running_average`, which then says whether it is trained, and `key`, from which it
        draws in training; a Linen module likewise (its keys are those of the stream 'dropout').
        A function whose variables have collections beside 'params' may return (outputs, updates),
        where `updates` are the collections that training changes.
      variables: at the start: a pytree of parameters, or {'params': ..., and other collections};
        None for a Linen module that is to be initialised here, or an NNX module, which holds them.
      inputs: some examples, a pytree of arrays [batch, ...].
      seed: of the variables that are drawn here.

    Raises:
      UserError: it is none of these, or variables are missing.
    """
    example = example_of(inputs)
    # A module of theirs can only be there where they are loaded.
    linen, nnx = (sys.modules.get(f"flax.{name}") for name in ("linen", "nnx"))
    if isinstance(model, Functions):
        return Source(model, _collections(variables)[0], example)
    if linen is not None and isinstance(model, linen.Module):
        return _of_linen(model, variables, inputs, example, seed)
    if nnx is not None and isinstance(model, nnx.Module):
        return _of_nnx(model, variables, example)
    if not callable(model):
        raise UserError(
            f"the model is a {type(model).__name__}; allowed: a function apply(variables, inputs),"
            " a Linen module, an NNX module, or Functions"
        )
    return _of_function(model, variables, example)


def _of_function(apply: Callable, variables: Any, example: Any) -> Source:
    if variables is None:
        raise UserError("the model is a function, and its variables are None; give its parameters")
    variables, plain = _collections(variables)
    names = _parameters(apply)
    draws = "key" in names

    def call(variables: Any, inputs: Any, train: bool, key: Any) -> Any:
        options = _told(names, train)
        if draws:
            options["key"] = key
        return apply(variables["params"] if plain else variables, inputs, **options)

    def train(variables: Any, inputs: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        found = call(variables, inputs, True, key)
        others = len(variables) > 1
        return found if others and isinstance(found, tuple) else (found, {})

    def evaluate(variables: Any, inputs: Any) -> Any:
        found = call(variables, inputs, False, None)
        return found[0] if len(variables) > 1 and isinstance(found, tuple) else found

    return Source(Functions(evaluate, train, draws), variables, example)


def _of_linen(module: Any, variables: Any, inputs: Any, example: Any, seed: int) -> Source:
    names = _parameters(type(module).__call__)
    if variables is None:
        keys = jax.random.split(jax.random.key(seed), 2)
        few = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), inputs)
        streams = {"params": keys[0], "dropout": keys[1]}
        variables = jax.jit(lambda: module.init(streams, few, **_told(names, False)))()
    variables, _ = _collections(variables)

    def evaluate(variables: Any, inputs: Any) -> Any:
        return module.apply(variables, inputs, **_told(names, False))

    def train(variables: Any, inputs: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        changing = [name for name in variables if name != "params"]
        found = module.apply(
            variables,
            inputs,
            **_told(names, True),
            rngs={"dropout": key},
            mutable=changing or False,
        )
        return (found[0], dict(found[1])) if changing else (found, {})

    return Source(Functions(evaluate, train), variables, example)


def _of_nnx(module: Any, variables: Any, example: Any) -> Source:
    if variables is not None:
        raise UserError("an NNX module holds its variables; give None for them")
    from flax import nnx

    graph, params, keys, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    known = {"params": params, "state": rest}
    variables = {name: _nested(state) for name, state in known.items() if jax.tree.leaves(state)}

    def merged(variables: Any, key: Any, train: bool) -> Any:
        states = [_filled(state, variables.get(name, {})) for name, state in known.items()]
        built = nnx.merge(graph, states[0], _reseeded(keys, key), states[1])
        built.train() if train else built.eval()
        return built

    def evaluate(variables: Any, inputs: Any) -> Any:
        return merged(variables, None, False)(inputs)

    def train(variables: Any, inputs: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        built = merged(variables, key, True)
        outputs = built(inputs)
        after = nnx.split(built, nnx.Param, nnx.RngState, ...)[3]
        return outputs, ({"state": _nested(after)} if "state" in variables else {})

    return Source(Functions(evaluate, train, bool(jax.tree.leaves(keys))), variables, example)


def _nested(state: Any) -> dict[str, Any]:
    """An NNX state as dictionaries of arrays, with text as keys."""
    from flax import nnx

    found: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        here = found
        for part in path[:-1]:
            here = here.setdefault(str(part), {})
        here[str(path[-1])] = variable[...]
    return found


def _filled(state: Any, values: Mapping[str, Any]) -> Any:
    """The NNX state with the arrays that `_nested` gave, or others in their place."""
    from flax import nnx

    flat = []
    for path, variable in nnx.to_flat_state(state):
        here = values
        for part in path:
            here = here[str(part)]
        flat.append((path, variable.replace(here)))
    return nnx.from_flat_state(flat)


def _reseeded(keys: Any, key: Any) -> Any:
    """The state of an NNX module's keys, all made of one; as it was for None."""
    if key is None:
        return keys
    from flax import nnx

    flat = []
    for number, (path, variable) in enumerate(nnx.to_flat_state(keys)):
        value = variable[...]
        drawn = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        fresh = jax.random.fold_in(key, number) if drawn else jnp.zeros_like(value)
        flat.append((path, variable.replace(fresh)))
    return nnx.from_flat_state(flat)


def _collections(variables: Any) -> tuple[dict[str, Any], bool]:
    """Variables as {'params': ...} and other collections, and whether they came without names."""
    if isinstance(variables, Mapping) and "params" in variables:
        return dict(variables), False
    return {"params": variables}, True


def _parameters(function: Callable) -> tuple[str, ...]:
    """Names of its arguments; () where Python cannot tell."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _told(names: tuple[str, ...], train: bool) -> dict[str, bool]:
    """The arguments, of those with these names, that tell a model whether it is trained."""
    return {name: train == value for name, value in _MODES.items() if name in names}
