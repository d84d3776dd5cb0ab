"""Memory that the libraries of a CPU take beside XLA's buffers.

On a CPU XLA hands products, convolutions and whole chains of operations to libraries (Eigen,
YNNPACK). Their packed operands, and the values inside a chain, are in no buffer of XLA's. A product
packs slices whose size is known. How much of a chain is in memory at once is decided inside the
library: up to every value of it, often far less. So there are two figures: a bound, from the text
of the program alone, and what a trial of the program took (`trials`).
"""

import dataclasses
import functools
import math
import os
import re
import weakref
from collections.abc import Iterator

import jax

from dynhp_jax.memory import hlo_text, trial_records, trials
from dynhp_jax.memory.hlo_text import Computation, Instruction
from dynhp_jax.memory.trial_records import Record, Records

LEAST = 64 * 1024  # a buffer below it is on a thread's stack
WORTH_A_TRIAL = 4 * LEAST, 1 / 20  # bytes of a bound, and its share of XLA's own
SLICES = 2 * 320  # Eigen packs two slices at a time of up to 320 along the axis that is summed
ONE_THREAD = 4 * 2**20  # what Eigen packs at most if a product is not spread over threads
COLUMNS, PANEL = 64, 2**20  # YNNPACK packs so many columns at a time, up to so many bytes
TILE = 2**18  # of a chain of elementwise operations, for each thread
FREE = ("parameter", "constant", "bitcast", "broadcast", "reshape", "get-tuple-element", "iota")
SUMS = ("dot", "convolution", "reduce", "reduce-window")


@dataclasses.dataclass(frozen=True)
class Bound:
    """The most that libraries take while a program runs.

    Attributes:
      packed: bytes of the largest product's packed operands, or of a chain's tiles.
      whole: bytes of the values inside the largest chain or around a convolution, if all of them
        are there at once; mostly they are not.
    """

    packed: int = 0
    whole: int = 0


def library_bytes(compiled: jax.stages.Compiled, tried: bool = True) -> int:
    """Bytes that libraries take beside XLA's buffers while a compiled function runs.

    Args:
      compiled: the function; 0 if it is not for CPUs.
      tried: whether it may be run on zeros, in a process of its own, where the bound says little.
        Otherwise only what products pack is counted.

    Returns:
      The bytes, the same on every call.
    """
    found = _known().setdefault(compiled, {})
    if tried not in found:
        found[tried] = _library_bytes(compiled, tried)
    return found[tried]


def _library_bytes(compiled: jax.stages.Compiled, tried: bool) -> int:
    if any(device.platform != "cpu" for device in _devices(compiled)):
        return 0
    record = trial_records.attached(compiled) if tried else None
    if record is None or record.trial is None:
        limit = bound(compiled.as_text(), threads())
        if record is not None or not _says_little(limit, compiled):
            return max(limit.packed, limit.whole)
        if not tried:
            return limit.packed
        record = _own_record(compiled)
        if record.trial is None:
            return max(limit.packed, limit.whole)
    return max(0, record.trial.bytes - trials.own_bytes(compiled))


def worth_a_trial(compiled: jax.stages.Compiled) -> bool:
    """Whether a program is for one CPU and the bound says little of what libraries take."""
    if {device.platform for device in _devices(compiled)} != {"cpu"} or len(_devices(compiled)) > 1:
        return False
    return _says_little(bound(compiled.as_text(), threads()), compiled)


def fuses_convolutions(compiled: jax.stages.Compiled) -> bool:
    """Whether a library runs convolutions of a program together with other operations."""
    parts = hlo_text.computations(compiled.as_text())
    return any(
        line.operation == "convolution" for chain in _chains(parts) for line in chain.values()
    )


def _own_record(compiled: jax.stages.Compiled) -> Record:
    """Of a program of somebody else's, by its text alone."""
    if len(_devices(compiled)) > 1:
        return Record()
    records, name = Records(), trial_records.fingerprint(compiled.as_text())
    record = records.get(name)
    if record is None:
        record = Record(fused=trials.tried(compiled))
        records.keep(name, record)
    return record


def _devices(compiled: jax.stages.Compiled) -> set[jax.Device]:
    return {d for s in jax.tree.leaves(compiled.input_shardings) for d in s.device_set}


def _says_little(limit: Bound, compiled: jax.stages.Compiled) -> bool:
    least, share = WORTH_A_TRIAL
    return limit.whole > max(least, share * trials.own_bytes(compiled))


@functools.cache
def _known() -> weakref.WeakKeyDictionary:
    return weakref.WeakKeyDictionary()


def threads() -> int:
    """How many threads XLA computes on: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bound(text: str, threads: int) -> Bound:
    """The most that libraries take, from the text of an optimized program.

    Args:
      text: from `jax.stages.Compiled.as_text()`.
      threads: that the program runs on.
    """
    parts = hlo_text.computations(text)
    packed = whole = 0
    for made in _calls(parts, threads):
        packed, whole = max(packed, made.packed), max(whole, made.whole)
    return Bound(*(size if size >= LEAST else 0 for size in (packed, whole)))


def _calls(parts: dict[str, Computation], threads: int) -> Iterator[Bound]:
    """The bound of every call of a library."""
    fused = {
        line.attribute("calls")
        for part in parts.values()
        for line in part.values()
        if line.operation == "fusion"
    }
    for name, part in parts.items():
        for line in part.values() if name not in fused else ():
            if line.operation in ("dot", "convolution"):
                rows, summed, columns = _product(line, part)
                size = _eigen(rows, summed, columns, threads)
                yield Bound(size) if line.operation == "dot" else Bound(whole=size)
    for part in _chains(parts):
        yield _chain(part, threads)


def _chains(parts: dict[str, Computation]) -> Iterator[Computation]:
    """The computations that YNNPACK runs, each as one call."""
    for part in parts.values():
        for line in part.values():
            if line.operation == "fusion" and '"kind":"__ynn_fusion"' in line.rest:
                yield parts[line.attribute("calls")]


def _chain(part: Computation, threads: int) -> Bound:
    """The bound of operations that YNNPACK runs as one."""
    inside = [line for line in part.values() if line.operation not in FREE]
    values = sum(line.bytes for line in inside if not line.root)
    sums = [line for line in inside if line.operation in SUMS]
    panels = [_panel(line, part, threads) for line in sums if line.operation == "dot"]
    copies = [_copies(line, part) for line in sums if line.operation == "convolution"]
    tiles = min(values, threads * TILE)
    if not copies and all(line.root and line.operation != "dot" for line in sums):
        return Bound(packed=tiles)
    return Bound(packed=max([0, *panels]), whole=values + sum(copies))


def _product(line: Instruction, part: Computation) -> tuple[int, int, int]:
    """A product's rows, how many numbers each is summed over, and its columns.

    A convolution is the product of the patches of its input and its kernel.
    """
    left, right = (part[name] for name in line.operands[:2])
    if line.operation == "convolution":
        labels = re.split(r"[_>]", line.attribute("dim_labels").replace("->", ">"))
        columns = right.sizes[labels[1].index("o")]
        return (
            math.prod(line.sizes) // columns,
            math.prod(right.sizes) // columns,
            columns,
        )
    axes, batch = (
        [left.sizes[int(n)] for n in re.findall(r"\d+", line.attribute(f"lhs_{kind}_dims"))]
        for kind in ("contracting", "batch")
    )
    summed, batches = math.prod(axes), math.prod(batch)
    rows = math.prod(left.sizes) // (summed * batches)
    return rows, summed, math.prod(right.sizes) // (summed * batches)


def _eigen(rows: int, summed: int, columns: int, threads: int) -> int:
    """What Eigen packs for a product of float32."""
    if rows == 1 or columns == 1:
        return 0
    packed = 4 * (rows + columns) * min(summed, SLICES)
    return packed if threads > 1 else min(packed, ONE_THREAD)


def _panel(line: Instruction, part: Computation, threads: int) -> int:
    """What YNNPACK packs for a product of float32."""
    _, summed, columns = _product(line, part)
    panel = min(4 * summed * min(columns, COLUMNS), PANEL)
    return threads * panel if panel >= LEAST else 0


def _copies(line: Instruction, part: Computation) -> int:
    """A convolution's padded input, once for every place of the kernel, at most."""
    image, kernel = (part[name] for name in line.operands[:2])
    sizes = re.search(r"size=([\dx]+)", line.attribute("window"))
    places = math.prod(map(int, sizes[1].split("x"))) if sizes else 1
    return image.bytes * (1 + places) + kernel.bytes
