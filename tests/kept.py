"""Compiled programs that several runs of one test share."""

from dynhp_jax import compiling, config

NEVER_CUT = config.Compiling(shrink=0.999, ahead=False)  # units are masked, arrays keep their sizes


class Kept(compiling.Programs):
    """Lets go of none, so that the next run finds those of networks that this one has left behind.

    For runs of one config, or of configs that differ in nothing but `replicas.FREE`, on the same
    data and devices: what else they may differ in is not in the keys.
    """

    def drop(self, spec) -> None:
        """Keeps them."""
