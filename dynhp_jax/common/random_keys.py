"""PRNG keys by name, and keys whose draws take no memory beside their results."""

import zlib

import jax
import jax.numpy as jnp
from jax.extend import random as generators

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def key_for(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for every name: of a group, or of a source of randomness.

    Groups that share a key get the same draws, unit by unit.

    Args:
      key: a PRNG key.
      name: any text; the key does not depend on which other names there are.

    Example:
      >>> import jax.numpy as jnp
      >>> from dynhp_jax import hard_concrete
      >>> key, log_alpha = jax.random.key(0), {"hidden_1": jnp.zeros(16), "hidden_2": jnp.zeros(16)}
      >>> z = {name: hard_concrete.sample(key_for(key, name), a) for name, a in log_alpha.items()}
      >>> bool(jnp.any(z["hidden_1"] != z["hidden_2"]))
      True
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def fused(key: jax.Array) -> jax.Array:
    """The same key, for draws that XLA fuses with whatever is made of them.

    The words are those of JAX's generator, bit by bit. That one runs a loop over arrays (on a CPU)
    or a kernel of its own (on a GPU): to draw a layer's weights takes several times their bytes.
    Here a word is a chain of operations on the number of its position, and takes none.

    Args:
      key: a key of JAX's default generator, as `jax.random.key` gives it.

    >>> key = jax.random.key(3)
    >>> bool((jax.random.normal(fused(key), (5, 7)) == jax.random.normal(key, (5, 7))).all())
    True
    """
    if not jax.config.jax_threefry_partitionable:  # words that depend on the size of the array
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_FUSED)


def _words(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Random words u32[shape]: the two halves that a block makes of a position, together."""
    if width != 32:
        return _JAX.random_bits(key, width, shape)
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        position = position * jnp.uint32(size) + along
    left, right = _threefry(key[0], key[1], jnp.zeros_like(position), position)
    return left ^ right


def _threefry(k0: jax.Array, k1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple:
    """Threefry 2x32 in 20 rounds (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3).

    Args:
      k0, k1: u32[], the key.
      x0, x1: u32[...], the two halves of the counters.
    """
    schedule = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + k0, x1 + k1
    for injection in range(1, 6):
        for by in _ROTATIONS[(injection - 1) % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << jnp.uint32(by)) | (x1 >> jnp.uint32(32 - by)))
        x0 = x0 + schedule[injection % 3]
        x1 = x1 + schedule[(injection + 1) % 3] + jnp.uint32(injection)
    return x0, x1


_JAX = generators.threefry_prng_impl
_FUSED = generators.define_prng_impl(
    key_shape=_JAX.key_shape,
    seed=_JAX.seed,
    split=_JAX.split,
    fold_in=_JAX.fold_in,
    random_bits=_words,
    name="threefry 2x32, fused",
    tag="fused",
)
