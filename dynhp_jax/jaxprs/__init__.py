"""What a jaxpr says about the coupling of its axes, and how to run it with some of them cut."""

from dynhp_jax.jaxprs import interpreter_control, interpreter_resized, rules  # noqa: F401  (register)
