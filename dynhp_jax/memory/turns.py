"""One program after the other: the next one begins when the memory of the last one is given back.

The results of a program are there a moment before the thread that ran it gives back what it took in
between. On a busy CPU the next program begins within that moment, and both are in memory at once
A pause gives the thread its turn.
"""

import time
from typing import Any

import jax

REST_S = 5e-4


def finished(results: Any) -> Any:
    """Waits until a program is done, and no longer takes more memory than its results.

    Args:
      results: a pytree of its arrays.

    Returns:
      The same.
    """
    jax.block_until_ready(results)
    if jax.default_backend() == "cpu":
        time.sleep(REST_S)
    return results
