"""What others print for a 784-300-100-10 network on MNIST and Fashion-MNIST: error and KiB.

Sizes of float32, by the units that are left (weights and biases), or as they are printed.

Sources: Louizos, Welling and Kingma 2018 (arXiv:1712.01312), Table 1; Louizos, Ullrich and Welling
2017 (arXiv:1705.08665), Table 1; Valerio et al. 2020 (arXiv:2011.08545), Tables 2 and 3.
"""

import dataclasses

from experiments.reproduction.published import CLASSES, TABLES


@dataclasses.dataclass(frozen=True)
class Point:
    """A published network.

    Attributes:
      name: of the method, as the figure says it.
      error: percent of the test set.
      kib: of its weights and biases.
    """

    name: str
    error: float
    kib: float


def kib_of(inputs: int, *hidden: int) -> float:
    """Of a network of dense layers.

    >>> round(kib_of(784, 300, 100), 1)
    1041.4
    """
    sizes = (inputs, *hidden, CLASSES)
    numbers = sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))
    return 4 * numbers / 1024


_OTHERS = {
    "mnist": (
        Point("L0 (Louizos et al.)", 1.4, kib_of(219, 214, 100)),
        Point("L0, smaller", 1.8, kib_of(266, 88, 33)),
        Point("Bayesian compression, GNJ", 1.8, kib_of(278, 98, 13)),
        Point("Bayesian compression, GHS", 1.8, kib_of(311, 86, 14)),
    ),
    "fashion_mnist": (),
}


def points(data: str) -> list[Point]:
    """Those of a data set, with the paper's rows."""
    (table,) = (each for each in TABLES.values() if each.dataset == data)
    lines = [Point(f"{each.name} (paper)", each.error, 1000 * each.model) for each in table.lines]
    return [*_OTHERS[data], *lines]
