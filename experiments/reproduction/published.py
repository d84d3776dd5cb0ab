"""Tables 2 and 3 of the paper as data, with the units that they turn out to have.

Source: Valerio, Nardini, Passarella and Perego, arXiv:2011.08545.

The arithmetic of the SP rows, which need no training, decodes the columns:

- "Model Size (MBytes)" is 4 bytes for every surviving weight and bias, in KiB, divided by 1000.
- "Training Memory (MBytes)" is the sum over the 2,000 epochs of (model + mini-batch) in KiB,
  divided by 10^6; a mini-batch takes 4 bytes for each of its examples' 784 pixels.
"""

import dataclasses
import math

from dynhp_jax.memory.paper import PaperMeter

EPOCHS = 2000
UNITS = {"input": 784, "hidden_1": 300, "hidden_2": 100}
CLASSES = 10
WHOLE = 266_610  # weights and biases of the whole network
METER = PaperMeter(example_bytes=4 * UNITS["input"])


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
      name: of our row that repeats it.
      alpha: as it is printed; None for SP and HP.
      error: misclassification, percent.
      model: "Model Size", thousands of KiB.
      memory: "Training Memory", millions of KiB times epochs.
      error_change, model_change, memory_change: in percent of SP's, as printed; None for SP.
    """

    name: str
    alpha: float | None
    error: float
    model: float
    memory: float
    error_change: int | None = None
    model_change: int | None = None
    memory_change: int | None = None

    @property
    def mean_memory_kib(self) -> float:
        """KiB of network and mini-batch, on average over the epochs."""
        return self.memory * 1e6 / EPOCHS

    @property
    def mean_batch(self) -> int:
        """An upper bound on the mean mini-batch: what the final network leaves of the mean memory.

        >>> TABLES[2].line("dynhp-0.972").mean_batch
        316
        """
        return math.floor((self.mean_memory_kib - 1000 * self.model) * 1024 / METER.example_bytes)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and what its runs share.

    Attributes:
      number: 2 or 3.
      dataset: as `dynhp_jax.data` calls it.
      title: as a person calls it.
      sp_batch, hp_batch: the mini-batches of SP and HP.
      lines: its rows, SP first.
    """

    number: int
    dataset: str
    title: str
    sp_batch: int
    hp_batch: int
    lines: tuple[Line, ...]

    def line(self, name: str) -> Line | None:
        """The row of that name, None if the paper has none."""
        return next((line for line in self.lines if line.name == name), None)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Of the DynHP rows, as printed."""
        return tuple(line.alpha for line in self.lines if line.alpha is not None)


def dynhp(alpha: float, *numbers: float) -> Line:
    """A DynHP row: error, model, memory, then the three changes."""
    return Line(f"dynhp-{alpha:g}", alpha, *numbers)


TABLES = {
    2: Table(
        2, "mnist", "MNIST", 512, 100,
        (
            Line("sp", None, 1.42, 1.041, 5.219),
            Line("hp", None, 1.41, 0.206, 1.185, -1, -88, -77),
            dynhp(0.971, 1.50, 0.572, 5.165, +5, -45, -1),
            dynhp(0.972, 1.35, 0.398, 2.736, -5, -62, -48),
            dynhp(0.973, 1.40, 0.205, 1.279, -1, -80, -75),
            dynhp(0.974, 1.45, 0.217, 1.361, +2, -79, -74),
            dynhp(0.975, 1.43, 0.178, 0.980, +1, -83, -81),
        ),
    ),
    3: Table(
        3, "fashion_mnist", "Fashion-MNIST", 128, 128,
        (
            Line("sp", None, 9.96, 1.041, 2.866),
            Line("hp", None, 10.20, 0.236, 1.377, +2, -77, -52),
            dynhp(0.979, 9.97, 0.430, 2.874, 0, -59, 0),
            dynhp(0.980, 9.64, 0.415, 2.874, -3, -60, 0),
            dynhp(0.981, 9.96, 0.418, 2.874, 0, -60, 0),
            dynhp(0.982, 9.77, 0.399, 2.874, -2, -62, 0),
            dynhp(0.983, 10.21, 0.407, 2.872, +2, -61, 0),
            dynhp(0.984, 10.12, 0.405, 2.872, +2, -61, 0),
            dynhp(0.985, 10.06, 0.410, 2.872, +1, -61, 0),
            dynhp(0.986, 9.93, 0.386, 2.858, 0, -63, 0),
            dynhp(0.987, 10.08, 0.252, 2.573, +1, -76, -10),
            dynhp(0.988, 10.23, 0.135, 0.829, +3, -87, -71),
            dynhp(0.989, 10.50, 0.124, 0.611, +5, -88, -79),
        ),
    ),
}  # fmt: skip

# What the printed tables and their text get wrong, found by their own arithmetic.
SLIPS = {
    2: (
        'HP\'s model is printed with "-88 %"; 0.206 of 1.041 is -80 %',
        "the text says 85 % for alpha 0.975; the table's -83 % is what 0.178 of 1.041 is",
        "SP's error is 1.42 in the table and 1.40 in the text",
    ),
    3: (
        'the unit of "Model Size" is printed as (%); it is the one of Table 2',
        "SP's training memory is 2.867 by the arithmetic, printed 2.866",
        "DynHP's 2.874 is 0.25 % above the budget that SP's 2.867 stands for",
    ),
}
