"""Planned trainings: measured tables, plans, what became of them, and the paper's figures."""
