"""Relevance that flows back from outputs to units."""
