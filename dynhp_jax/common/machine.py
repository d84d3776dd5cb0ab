"""What the machine is, and what it can hold.

What cannot be in its memory is refused before work starts.
"""

import math
import os
import platform
import resource
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from dynhp_jax.common.errors import UserError

_CONTAINER = (  # versions 2 and 1 of Linux's control groups
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory_bytes() -> int:
    """The most that this process can hold: the machine's memory, or less by a limit on it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_container_limits()]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits)


def _container_limits() -> Iterable[int]:
    for file in map(Path, _CONTAINER):
        try:
            yield int(file.read_text())
        except (OSError, ValueError):  # no such file, or the word "max"
            continue


def processor() -> str:
    """Names the instructions that this machine has: a program compiled for others may crash."""
    known = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        known += next((line for line in info.read_text().splitlines() if "flags" in line), "")
    return f"{platform.machine()}-{zlib.crc32(known.encode()):08x}"


def check_holds(shapes: Any, what: str, remedy: str) -> None:
    """Refuses arrays that are larger than the memory.

    Args:
      shapes: a pytree of arrays or jax.ShapeDtypeStruct; nothing is allocated.
      what: the arrays are, for the message.
      remedy: what to do, for the message.

    Raises:
      UserError: together they take more than `memory_bytes`.
    """
    leaves = jax.tree.leaves(shapes)
    wanted = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    there = memory_bytes()
    if wanted > there:
        raise UserError(
            f"{what} take {_gib(wanted)}, and there is memory for {_gib(there)}; {remedy}"
        )


def _gib(size: int) -> str:
    """
    >>> _gib(3 * 2**29), _gib(2**90)
    ('1.5 GiB', '1.2e+18 GiB')
    """
    gib = size / 2**30
    return f"{gib:,.1f} GiB" if gib < 1e6 else f"{gib:.2g} GiB"
