"""Importance scores: one file per criterion, each a number per unit of every group."""
