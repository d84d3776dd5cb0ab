"""The paper's meter: the network and the inputs of a mini-batch, 4 bytes for every number.

It leaves out labels, activations, gradients, gates and optimizer moments, so it is a yardstick to
compare with the paper's tables, not a measure of what a machine allocates (`memory.compiled`).

Source: Valerio et al. 2020, Eq. 9 and Tables 2 to 4, as decoded from the tables' numbers.
"""

import dataclasses
import math
from collections.abc import Iterable

from dynhp_jax.memory.arithmetic import Arithmetic, Formula

BYTES_PER_NUMBER = 4  # float32


@dataclasses.dataclass(frozen=True)
class PaperMeter(Formula):
    """The paper's arithmetic metric. A *parameter* is a surviving weight or bias.

    >>> meter = PaperMeter(example_bytes=example_bytes((784,)))
    >>> round(meter.model_kib(266_610), 3), round(meter.memory_kib(266_610, batch=512), 3)
    (1041.445, 2609.445)

    Args:
      example_bytes: bytes of one example's inputs (`example_bytes((784,))` is 3136).
    """

    example_bytes: int

    def __post_init__(self):
        if self.example_bytes < 1:
            raise ValueError(f"example_bytes is {self.example_bytes}; it must be at least 1")

    def memory_bytes(self, parameters: int, batch: int) -> int:
        """Bytes of the network and a mini-batch of `batch` examples."""
        return BYTES_PER_NUMBER * int(parameters) + self.example_bytes * int(batch)

    def model_kib(self, parameters: int) -> float:
        """KiB of the network alone; the tables' "Model Size" is this divided by 1000."""
        return self.memory_bytes(parameters, 0) / 1024


class Paper(Arithmetic):
    """The meter of a run that counts by the paper's arithmetic."""

    label = "paper"
    formula = PaperMeter


def example_bytes(input_shape: Iterable[int]) -> int:
    """Bytes of one example's inputs in float32; `input_shape` leaves the batch axis out."""
    return BYTES_PER_NUMBER * math.prod(input_shape)


def training_memory(memory_kib: Iterable[float]) -> float:
    """The tables' "Training Memory": the sum of `memory_kib` over the epochs, divided by 10^6.

    The tables call it MBytes; its unit is a thousand KiB times a thousand epochs.

    >>> meter = PaperMeter(example_bytes=3136)
    >>> round(training_memory([meter.memory_kib(266_610, batch=512)] * 2000), 3)
    5.219
    """
    return math.fsum(memory_kib) / 1e6
