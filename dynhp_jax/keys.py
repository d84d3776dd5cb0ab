"""PRNG keys by name."""

import zlib

import jax


def named(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for every name: of a group, or of a source of randomness.

    Groups that share a key get the same draws, unit by unit.

    Args:
      key: a PRNG key.
      name: any text; the key does not depend on which other names there are.

    Example:
      >>> import jax.numpy as jnp
      >>> from dynhp_jax import gates
      >>> key, log_alpha = jax.random.key(0), {"hidden_1": jnp.zeros(16), "hidden_2": jnp.zeros(16)}
      >>> z = {name: gates.sample(named(key, name), a) for name, a in log_alpha.items()}
      >>> bool(jnp.any(z["hidden_1"] != z["hidden_2"]))
      True
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
