"""The folder in which everything that can be made anew is kept."""

import warnings
from pathlib import Path

from dynhp_jax.common import paths


def default_folder() -> Path | None:
    """`DYNHP_CACHE`, else the user's cache directory (XDG); warns, and is None, without a home.

    Raises:
      UserError: a variable of the environment gives what is no path.
    """
    if folder := paths.of_environment("DYNHP_CACHE"):
        return folder
    base = paths.of_environment("XDG_CACHE_HOME") or paths.in_home(".cache")
    if base is None:
        warnings.warn(
            "nothing is kept for later runs, as there is no home directory for it; DYNHP_CACHE"
            " names another one",
            stacklevel=1,
        )
    return base and base / "dynhp_jax"
