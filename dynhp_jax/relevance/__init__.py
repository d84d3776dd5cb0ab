"""Relevance that flows back from outputs to units."""

from dynhp_jax.relevance.propagation import relevant

__all__ = ["relevant"]
