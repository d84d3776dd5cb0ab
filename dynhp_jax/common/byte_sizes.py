"""Numbers of bytes as people write and read them: '1.5MiB'."""

import math
import re
from typing import Any

import jax

from dynhp_jax.common.errors import ArgumentError, shown

UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


def parse_bytes(text: str | int, name: str = "text") -> int:
    """Reads a budget: a number of bytes, alone or with a unit.

    Units are B, KB, MB, GB (powers of 1000) and KiB, MiB, GiB (powers of 1024), in any case, with
    or without a space. Fractions of a byte are dropped.

    >>> parse_bytes("4MiB"), parse_bytes("1.5 MB"), parse_bytes("3000000")
    (4194304, 1500000, 3000000)

    Args:
      text: as above.
      name: what the error calls it: the argument of a function that was given it.

    Raises:
      ArgumentError: no number, an unknown unit, less than one byte.
    """
    allowed = "bytes above 0 as a number with or without a unit, like '4MiB', '1.5 MB', '3000000'"
    match = re.fullmatch(r"\s*(\d{1,20})(?:\.(\d{1,20}))?\s*([A-Za-z]*)\s*", str(text), re.ASCII)
    if match is None:
        raise ArgumentError(name, text, allowed)
    whole, fraction, unit = match[1], match[2] or "", match[3]
    factors = {name.lower(): factor for name, factor in UNITS.items()}
    if unit.lower() not in factors:
        units = ", ".join(filter(None, UNITS))
        unknown = f"the unit {shown(unit)} is none of {units}"
        raise ArgumentError(name, text, f"{allowed}; {unknown}")
    # In integers: '2609.4KiB' must not depend on how 2609.4 rounds.
    size = int(whole + fraction) * factors[unit.lower()] // 10 ** len(fraction)
    if size < 1:
        raise ArgumentError(name, text, allowed)
    return size


def kib(size: int, up: bool = False) -> str:
    """Bytes as text in KiB with one decimal, rounded down, or up so that it is enough."""
    tenths = -(-size * 10 // 1024) if up else size * 10 // 1024
    return f"{tenths // 10}.{tenths % 10}KiB"


def array_bytes(tree: Any) -> int:
    """Bytes of the arrays (or shapes) of a pytree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
