"""Models that know nothing of this library, in the ways in which people write models in JAX."""
