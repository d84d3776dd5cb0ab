"""Which examples of a training set are held out, the same ones on every machine."""

import numpy as np

from dynhp_jax.data.catalogue import hashed_order


def hold_out(count: int, share: float, seed: int) -> tuple[np.ndarray | slice, np.ndarray]:
    """Rows kept and rows held out, both ascending.

    Args:
      count: how many rows there are.
      share: of them that is held out, from 0 to below 1.
      seed: another one holds out others.

    >>> hold_out(5, 0.4, 0)
    (array([0, 1, 3]), array([2, 4]))
    """
    if not share:
        return slice(None), np.empty(0, np.int64)
    size = min(max(1, round(count * share)), count - 1)
    order = hashed_order(f"validation {seed} ", count)
    return np.sort(order[size:]), np.sort(order[:size])
