"""Making arrays smaller, and the functions and optimizer states over them."""

from dynhp_jax.surgery.cut import cut
from dynhp_jax.surgery.resized import resized

__all__ = ["cut", "resized"]
