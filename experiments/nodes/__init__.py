"""Decentralised runs: their settings, their progress and their figures."""
