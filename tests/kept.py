"""Compiled programs that several runs of one test share."""

from dynhp_jax import compiling, config

NEVER_CUT = config.Compiling(shrink=0.999, ahead=False)  # units are masked, arrays keep their sizes


class Kept(compiling.Programs):
    """Lets go of none, so that the next run finds those of networks that one has left behind."""

    def drop(self, spec) -> None:
        """Keeps them."""
