"""GaLore for any model: Adam's moments in a few directions of every kernel (2403.03507).

optax.contrib has the optimizer; here convolutions are matrices of what they sum over and what they
make. What is no kernel has Adam's moments in full.
"""

import jax
import optax
from optax import contrib

GAP = 200  # steps between two projections, as published
SCALE = 0.02  # brings the rates of SGD, which all rows are tried with, to those of Adam


def make(rate: float, rank: int) -> optax.GradientTransformation:
    """The optimizer.

    Args:
      rate: the learning rate.
      rank: directions of each kernel.
    """

    def matrices(params):
        return jax.tree.map(lambda leaf: _axes(leaf.ndim), params)

    return contrib.galore(
        rate, rank=rank, update_proj_gap=GAP, scale=SCALE, weight_dimension_numbers=matrices
    )


def _axes(dimensions: int) -> contrib.GaLoreDimensionNumbers | None:
    if dimensions < 2:
        return None
    return contrib.GaLoreDimensionNumbers(tuple(range(dimensions - 1)), (dimensions - 1,))
