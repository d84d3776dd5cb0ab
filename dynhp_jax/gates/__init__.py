"""Hard-concrete gates on units: their distribution, their penalty, and which of them stay open."""

from dynhp_jax.gates.hard_concrete import HardConcrete, clamp, init, mean, prob_open, sample

__all__ = ["HardConcrete", "clamp", "init", "mean", "prob_open", "sample"]
