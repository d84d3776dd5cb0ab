"""How large a mini-batch is: its rules, and the gradient variance that they read."""

from dynhp_jax.batch_size.rules import CABS, Doubling, DynHP, Fixed, Worth, calibrate_alpha

__all__ = ["CABS", "Doubling", "DynHP", "Fixed", "Worth", "calibrate_alpha"]
