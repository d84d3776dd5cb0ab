"""Transforms of an apply function, several of which act on one trace of it.

`gated(probed(apply))` is not a trace of a trace: each transform adds its hook, and all of them run
in one evaluation of `apply`, whatever their order. What lies between two of them (a lambda, a
`jax.jit`) makes the inner one an ordinary function for the outer one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from dynhp_jax.jaxprs.hooks import Chain, Hook
from dynhp_jax.jaxprs.interpreter import Run
from dynhp_jax.jaxprs.trace import Traced, trace


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a transformed function.

    Attributes:
      traced: the function below all transforms.
      apply: that function.
      variables, inputs: what it was called with.
    """

    traced: Traced
    variables: Any
    inputs: tuple


# (call, *arguments of the transform) -> what it does to equations.
MakeHook = Callable[..., Hook]


@dataclasses.dataclass(frozen=True)
class _Layer:
    arguments: int
    make: MakeHook


def transformed(apply: Callable, arguments: int, make: MakeHook) -> Callable:
    """A function under one transform more.

    Args:
      apply: `apply(variables, *inputs) -> outputs`, or what a transform made of one.
      arguments: how many arguments the transform takes, between the variables and those of `apply`.
      make: `make(call, *arguments) -> Hook`.

    Returns:
      `f(variables, *arguments, *others) -> outputs`.
    """
    layers = (*getattr(apply, "transforms", ()), _Layer(arguments, make))
    return with_layers(getattr(apply, "transformed", apply), layers)


def with_layers(core: Callable, layers: tuple[_Layer, ...]) -> Callable:
    """A function under the transforms of another one (its `transforms`)."""
    if not layers:
        return core

    def function(variables: Any, *given: Any) -> Any:
        arguments, inputs = [], given
        for layer in reversed(layers):
            if len(inputs) < layer.arguments:
                count = sum(each.arguments for each in layers)
                raise TypeError(
                    f"the transforms of this function take {count} arguments after the variables;"
                    f" {len(given)} arguments were given"
                )
            arguments.append(inputs[: layer.arguments])
            inputs = inputs[layer.arguments :]

        traced = trace(core, variables, inputs)
        call = Call(traced, variables, inputs)
        pairs = zip(layers, reversed(arguments), strict=True)
        hooks = [layer.make(call, *own) for layer, own in pairs]
        hook = hooks[0] if len(hooks) == 1 else Chain(hooks)
        leaves = jax.tree.leaves((variables, inputs))
        out = Run(traced.walk, hook=hook)(traced.analysis, leaves)
        return hook.finish(jax.tree.unflatten(traced.out_tree, out))

    function.transforms, function.transformed = layers, core
    return function
