"""Structured pruning of any Flax model while it trains, inside a memory budget."""

__version__ = "0.1.0"
