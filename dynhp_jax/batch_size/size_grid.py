"""The grid of mini-batch sizes, which bounds how many of them get compiled."""

import math

from dynhp_jax.common.errors import ArgumentError


def on_grid(batch: int, ratio: float) -> int:
    """The largest size of a fixed grid that is not above `batch`.

    Every new size is a new compilation; on the grid, sizes from b to B need about
    log(B / b) / log(ratio) of them. The grid holds every power of two and cuts each octave into the
    fewest equal ratios not above `ratio`, rounded to multiples of 8 above 16. The controller goes
    on with the exact batch: growth by less than a grid step adds up. Sizes that a user has fixed
    need no grid.

    >>> [on_grid(b, 1.25) for b in (5, 16, 23, 100, 128, 600)]
    [5, 16, 16, 88, 128, 512]

    Args:
      batch: exact size, at least 1.
      ratio: step of the grid, at least 1; 1 keeps every size.

    Raises:
      ArgumentError: `ratio` below 1 or infinite.
      ValueError: `batch` below 1.
    """
    if not 1 <= ratio < math.inf:
        raise ArgumentError("ratio", ratio, "a number that is 1 or above")
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    if ratio == 1:
        return batch
    octave = 2 ** (batch.bit_length() - 1)  # the power of two in (batch / 2, batch]
    steps = max(1, math.ceil(math.log(2) / math.log(ratio)))
    multiple = 8 if octave >= 16 else 1
    sizes = [multiple * round(octave * 2 ** (step / steps) / multiple) for step in range(steps)]
    return max(size for size in sizes if size <= batch)
