"""How many bytes a step takes, by the paper's arithmetic or as it is compiled."""

from dynhp_jax.memory.compiled import StepBytes, compiled_bytes
from dynhp_jax.memory.paper import PaperMeter, example_bytes, training_memory

__all__ = ["PaperMeter", "StepBytes", "compiled_bytes", "example_bytes", "training_memory"]
