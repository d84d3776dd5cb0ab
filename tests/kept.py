"""Compiled programs that several runs of one test share."""

from dynhp_jax.training import config
from dynhp_jax.training.compiled import programs

NEVER_CUT = config.Compiling(shrink=0.999, ahead=False)  # units are masked, arrays keep their sizes


class Kept(programs.Programs):
    """Lets go of none, so that the next run finds those of networks that one has left behind."""

    def drop(self, spec) -> None:
        """Keeps them."""
