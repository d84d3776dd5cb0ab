"""scikit-learn's diabetes table: ten measurements of 442 patients, and how the disease went on."""

import numpy as np

from dynhp_jax.data.catalogue import hashed_order
from dynhp_jax.data.held_out import hold_out
from dynhp_jax.data.pairs import Pairs

_TRAINED_ON = 354  # of 442


def diabetes(share: float, seed: int) -> dict[str, Pairs]:
    """A regression: inputs f32[examples, 10], targets f32[examples].

    Both have mean 0 and standard deviation 1 over the examples that are trained on.

    Args:
      share, seed: of the training set that is held out; see `hold_out`.
    """
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    order = hashed_order("diabetes", len(y))
    rows, test = np.sort(order[:_TRAINED_ON]), np.sort(order[_TRAINED_ON:])
    kept, held_out = hold_out(len(rows), share, seed)
    splits = {"train": rows[kept], "test": test}
    splits |= {"validation": rows[held_out]} if share else {}

    def standard(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
        known = column[splits["train"]]
        return np.float32((column[rows] - known.mean(0)) / known.std(0))

    return {name: Pairs(standard(x, rows), standard(y, rows)) for name, rows in splits.items()}
