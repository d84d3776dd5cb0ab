"""Whether networks of several members compute the same, so that one program serves them all."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dynhp_jax.training.network import Network, batch_of


def alike(networks: Sequence[Network]) -> bool:
    """Whether they are equal, or their functions are the same operations on the same constants.

    Models of a registry are equal if their sizes are. A model of one's own may hold a constant for
    each of its units, say a scale, and of different units it holds different ones.
    """
    first, *others = networks
    others = [each for each in others if each.model != first.model]
    if not others:
        return True
    expected = _computations(first)
    return all(_same(expected, _computations(each)) for each in others)


def _computations(network: Network) -> list[tuple[str, list[np.ndarray]]]:
    """Of evaluation and training: operations, and the constants that they read."""
    variables, inputs = network.model.shapes(), batch_of(network.model.example, 2)
    key = jax.random.key(0) if network.model.draws else ()

    def found(function: Callable, *arguments: Any) -> tuple[str, list[np.ndarray]]:
        traced = jax.make_jaxpr(function)(*arguments)
        return str(traced.jaxpr), [np.asarray(_numbers(each)) for each in traced.consts]

    return [
        found(network.evaluate, variables, inputs),
        found(network.train, variables, inputs, key),
    ]


def _numbers(constant: Any) -> Any:
    drawn = isinstance(constant, jax.Array) and jax.dtypes.issubdtype(
        constant.dtype, jax.dtypes.prng_key
    )
    return jax.random.key_data(constant) if drawn else constant


def _same(one: list, other: list) -> bool:
    return all(
        text == words and len(held) == len(kept) and all(map(np.array_equal, held, kept))
        for (text, held), (words, kept) in zip(one, other, strict=True)
    )
