"""The largest size that fits a budget, when each look at what a size takes costs a compilation."""

from collections.abc import Callable, Mapping

LOOKS = 6  # along straight lines; from then on the interval is halved, which always ends


def largest(
    measure: Callable[[int], int],
    budget: int,
    low: int,
    high: int,
    known: Mapping[int, int] | None = None,
    slack: int = 0,
) -> int:
    """The largest size whose measured bytes are within the budget.

    A step takes fixed bytes and bytes per example, so two sizes make a line that says how many
    examples fit; that size is measured, too, and corrected until it holds and the line through the
    sizes around it says that one more would not. XLA's bytes bend upwards where another moment of
    the step becomes its peak, never downwards by much; so a line through two sizes that fit does
    not promise less room than there is.

    >>> looks = []
    >>> largest(lambda n: looks.append(n) or 1000 + 30 * n, budget=2500, low=1, high=400)
    50
    >>> looks
    [1, 400, 50]

    Args:
      measure: size -> bytes, growing; called once per size at most.
      budget: bytes.
      low: smallest size, from 1.
      high: largest size.
      known: sizes that were measured before, and their bytes.
      slack: bytes that may be left; 0 for the largest size that there is.

    Returns:
      A size from `low` to `high` that was measured and fits; `low - 1` if not even `low` does.
    """
    sizes = {n: size for n, size in (known or {}).items() if low <= n <= high}

    def look(n: int) -> int:
        if n not in sizes:
            sizes[n] = measure(n)
        return sizes[n]

    if not any(size <= budget for size in sizes.values()) and look(low) > budget:
        return low - 1
    if not any(size > budget for size in sizes.values()) and look(high) <= budget:
        return high
    looks = 0
    while True:
        fits = max(n for n, size in sizes.items() if size <= budget)
        over = min((n for n, size in sizes.items() if n > fits), default=fits + 1)
        if over == fits + 1 or budget - sizes[fits] < slack:
            return fits
        below = max((n for n in sizes if n < fits), default=None)
        if below is not None and looks:
            each = (sizes[fits] - sizes[below]) / (fits - below)
            if 0 <= budget - sizes[fits] < each:
                return fits
        start = below if below is not None and looks % 2 else over
        each = (sizes[start] - sizes[fits]) / (start - fits)
        room = int((budget - sizes[fits]) // each) if each > 0 else over
        looks += 1
        guess = fits + room if looks <= LOOKS else (fits + over) // 2
        look(min(max(guess, fits + 1), over - 1))
