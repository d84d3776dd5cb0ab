"""In which order an epoch takes the examples: a permutation, from the epoch's own key.

The examples are sorted by random words, in a few rounds (`jax.random.permutation`). On the device
that takes 8 bytes for each of them beside the order. Where a byte budget has no room for these, the
words alone are drawn there, and the host sorts.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common import random_keys
from dynhp_jax.data.streamed import Batches
from dynhp_jax.memory import compiled
from dynhp_jax.training.compiled.programs import Programs


class Order:
    """`order(number) -> i32[examples]`: how the epoch of that number takes the examples.

    Args:
      source: the key of all orders.
      examples: N, the size of the training set.
      programs: where compiled programs are kept.
      room: bytes that there are on the device, beside the order; None for any number.

    Attributes:
      temporaries: bytes that it takes there, beside the order.
    """

    def __init__(self, source: jax.Array, examples: int, programs: Programs, room: int | None):
        self._source, self._examples = source, examples
        make = functools.partial(make_order, examples)
        program = programs.get("order", examples, make, source, np.int32(1))
        self._order = functools.partial(program, source)
        if room is not None and _temporaries(program) > room:
            make = functools.partial(_make_words, examples)
            program = programs.get("words of an order", examples, make, source)
            self._order = functools.partial(self._on_host, program)
        self.temporaries = _temporaries(program)

    def __call__(self, number: int) -> jax.Array | np.ndarray:
        return self._order(np.int32(number))

    def _on_host(self, words: Callable, number: int) -> np.ndarray:
        key = jax.random.fold_in(self._source, number)
        rows = np.arange(self._examples, dtype=np.int32)
        for _ in range(_rounds(self._examples)):
            key, own = jax.random.split(key)
            rows = rows[np.argsort(np.asarray(words(own)), kind="stable")]
        return rows


class InTurn:
    """The order of examples that come only as their source has them; like `Order`.

    Args:
      examples: of the training set.
    """

    temporaries = 0

    def __init__(self, examples: Batches):
        self._examples = examples

    def __call__(self, number: int) -> np.ndarray:
        self._examples.begin(int(number))
        return np.arange(len(self._examples), dtype=np.int32)


def make_order(examples: int) -> Callable:
    """`order(source, number) -> i32[examples]`, jitted.

    Args:
      examples: N, the size of the training set.
    """

    def order(source, number):
        key = random_keys.fused(jax.random.fold_in(source, number))
        return jax.random.permutation(key, examples).astype(jnp.int32)

    return jax.jit(order)


def _make_words(examples: int) -> Callable:
    """`words(key) -> u32[examples]`, jitted: what examples are sorted by in one round."""
    return jax.jit(lambda key: jax.random.bits(random_keys.fused(key), (examples,), jnp.uint32))


def _rounds(examples: int) -> int:
    """After so many, words that are equal in all of them are unlikelier than one in N."""
    return math.ceil(3 * math.log(max(1, examples)) / math.log(2**32 - 1))


def _temporaries(program: jax.stages.Compiled) -> int:
    arguments = len(program.args_info[0])
    return compiled.compiled_bytes(program, ("order",) * arguments).temporaries
