"""Memory meters: how many bytes a training step takes, and what a byte budget leaves room for.

The paper's meter is arithmetic: 4 bytes for every surviving parameter and for every number of the
mini-batch's inputs. It leaves out labels, activations, gradients, gates and optimizer moments, so
it is a yardstick to compare with the paper's tables, not what a machine allocates. That is what
`compiled_bytes` counts for a compiled step: XLA's buffers, and beside them what the libraries of a
CPU take (`cpu_libraries`).

Source: Valerio et al. 2020, Eq. 9 and Tables 2 to 4, as decoded from the tables' numbers.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from dynhp_jax.cpu_libraries import library_bytes
from dynhp_jax.errors import ConfigError, shown

BYTES_PER_NUMBER = 4  # float32
UNLIMITED = "none"  # the budget of a run without one
UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PaperMeter:
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

    def memory_kib(self, parameters: int, batch: int) -> float:
        """KiB of the network and a mini-batch; one epoch's entry of `training_memory`."""
        return self.memory_bytes(parameters, batch) / 1024

    def room(self, budget_bytes: int, parameters: int) -> int:
        """The largest batch inside the budget; 0 if not even one example fits."""
        return max(0, (int(budget_bytes) - self.memory_bytes(parameters, 0)) // self.example_bytes)

    def smallest_budget(self, parameters: int) -> int:
        """Bytes of the network plus one example: no training fits below."""
        return self.memory_bytes(parameters, 1)

    def budget_bytes(self, budget: str, parameters: int) -> int:
        """The bytes that a budget names.

        Raises:
          ConfigError: for the field memory.budget: no number of bytes, or below `smallest_budget`.
        """
        found, least = parse_bytes(budget), self.smallest_budget(parameters)
        if found < least:
            raise ConfigError(
                "memory.budget",
                budget,
                f"at least {kib(least, up=True)}, the network ({kib(least - self.example_bytes)})"
                f" plus one example",
            )
        return found


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


def parse_bytes(text: str | int) -> int:
    """Reads a budget: a number of bytes, alone or with a unit.

    Units are B, KB, MB, GB (powers of 1000) and KiB, MiB, GiB (powers of 1024), in any case, with
    or without a space. Fractions of a byte are dropped.

    >>> parse_bytes("4MiB"), parse_bytes("1.5 MB"), parse_bytes("3000000")
    (4194304, 1500000, 3000000)

    Raises:
      ConfigError: for the field memory.budget: no number, an unknown unit, less than one byte.
    """
    allowed = "bytes above 0 as a number with or without a unit, like '4MiB', '1.5 MB', '3000000'"
    match = re.fullmatch(r"\s*(\d{1,20})(?:\.(\d{1,20}))?\s*([A-Za-z]*)\s*", str(text), re.ASCII)
    if match is None:
        raise ConfigError("memory.budget", text, allowed)
    whole, fraction, unit = match[1], match[2] or "", match[3]
    factors = {name.lower(): factor for name, factor in UNITS.items()}
    if unit.lower() not in factors:
        units = ", ".join(filter(None, UNITS))
        unknown = f"the unit {shown(unit)} is none of {units}"
        raise ConfigError("memory.budget", text, f"{allowed}; {unknown}")
    # In integers: '2609.4KiB' must not depend on how 2609.4 rounds.
    size = int(whole + fraction) * factors[unit.lower()] // 10 ** len(fraction)
    if size < 1:
        raise ConfigError("memory.budget", text, allowed)
    return size


@dataclasses.dataclass(frozen=True)
class StepBytes:
    """Device memory of a compiled function; the parts sum to `total`.

    All but `libraries` are from XLA's buffer assignment.

    Attributes:
      arguments: label -> bytes of the arguments so labelled, on one device; arguments that the
        function does not use take none.
      padding: bytes that the arguments take beyond their numbers (tiled layouts on a TPU).
      outputs: bytes of the results that do not reuse the buffer of a donated argument.
      temporaries: bytes of activations, gradients and everything else in between, at their peak.
      libraries: bytes that libraries take beside XLA's buffers while it runs.
    """

    arguments: Mapping[str, int]
    padding: int
    outputs: int
    temporaries: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """Bytes in all: arguments + outputs - aliased + temporaries + libraries."""
        return sum(self.arguments.values()) + self.outputs + self.between

    @property
    def between(self) -> int:
        """Bytes beside arguments and results: temporaries, libraries, padding."""
        return self.temporaries + self.libraries + self.padding


def compiled_bytes(compiled: jax.stages.Compiled, labels: tuple, tried: bool = True) -> StepBytes:
    """Counts the bytes that a compiled function allocates, by what they hold.

    >>> import jax.numpy as jnp
    >>> step = jax.jit(lambda params, batch: params * batch.sum(), donate_argnums=0)
    >>> compiled = step.lower(jnp.ones(10), jnp.ones(6)).compile()
    >>> compiled_bytes(compiled, ("params", "batch")).arguments
    {'params': 40, 'batch': 24}

    Args:
      compiled: from `jax.jit(f).lower(*arguments).compile()`, positional arguments only.
      labels: one entry per argument: a string, or a pytree of strings that is a prefix of the
        argument, such as `{"params": "params", "batch_stats": "statistics"}`.
      tried: whether it may be run on zeros, once, to find out what libraries take; see
        `cpu_libraries.library_bytes`.

    Returns:
      The bytes; those of equal labels added up.

    Raises:
      ValueError: labels that do not fit the arguments, or a backend without memory analysis.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise ValueError("this backend reports no memory analysis; use the paper's meter")
    arguments, keywords = compiled.args_info
    if keywords:
        raise ValueError(f"pass {', '.join(keywords)} by position, so that labels can name them")
    shardings, _ = compiled.input_shardings
    sizes: dict[str, int] = {}

    def count(label: str, infos: Any, placed: Any) -> None:
        sizes.setdefault(label, 0)
        # A sharding of None marks an argument that XLA has dropped because nothing reads it.
        flat = jax.tree.structure(infos).flatten_up_to(placed)
        for info, sharding in zip(jax.tree.leaves(infos), flat, strict=True):
            if sharding is not None:
                shape = sharding.shard_shape(info.shape)
                sizes[label] += math.prod(shape) * info.dtype.itemsize

    try:
        jax.tree.map(count, labels, arguments, shardings)
    except ValueError as error:
        raise ValueError(
            f"labels do not fit the {len(arguments)} arguments; give one entry for each: a string, "
            "or strings in the argument's structure"
        ) from error
    return StepBytes(
        arguments=sizes,
        padding=analysis.argument_size_in_bytes - sum(sizes.values()),
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        libraries=library_bytes(compiled, tried),
    )


def kib(size: int, up: bool = False) -> str:
    """Bytes as text in KiB with one decimal, rounded down, or up so that it is enough."""
    tenths = -(-size * 10 // 1024) if up else size * 10 // 1024
    return f"{tenths // 10}.{tenths % 10}KiB"
