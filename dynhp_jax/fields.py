"""Fields of frozen dataclasses that check themselves: what they accept, in code and in words."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from dynhp_jax.errors import ConfigError
from dynhp_jax.memory import parse_bytes

_LARGEST = 2**63 - 1  # beyond it numbers overflow somewhere


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field accepts: `convert` returns the value to store or raises ValueError."""

    convert: Callable[[Any], Any]
    allowed: str
    help: str


def _option(default, convert, allowed: str, help: str):
    return dataclasses.field(default=default, metadata={"rule": Rule(convert, allowed, help)})


def _real(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    try:
        return float(value)
    except OverflowError:
        raise ValueError from None


def as_whole(value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def as_text(value) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def number(default: float, low: float, high: float, allowed: str, help: str):
    """A float in [low, high]."""

    def convert(value):
        value = _real(value)
        if not low <= value <= high or math.isnan(value) or math.isinf(value):
            raise ValueError
        return value

    return _option(default, convert, allowed, help)


def positive(default: float, help: str):
    """A float above 0."""
    return number(default, 5e-324, math.inf, "a number above 0", help)


def whole(default: int, low: int, help: str, high: int = _LARGEST):
    """An integer in [low, high]."""
    to = "or more" if high == _LARGEST else f"to {high}"

    def convert(value):
        value = as_whole(value)
        if not low <= value <= high:
            raise ValueError
        return value

    return _option(default, convert, f"a whole number, {low} {to}", help)


def switch(default: bool, help: str):
    """True or False."""

    def convert(value):
        if not isinstance(value, bool):
            raise ValueError
        return value

    return _option(default, convert, "True or False", help)


def choice(default: str, names: tuple[str, ...], help: str):
    """One of the given names."""

    def convert(value):
        if value not in names:
            raise ValueError
        return value

    return _option(default, convert, ", ".join(repr(name) for name in names), help)


def text(default: str, help: str, allowed: str = "a string"):
    """A string."""
    return _option(default, as_text, allowed, help)


def size_in_bytes(default: str, help: str):
    """A number of bytes as text, with or without a unit; see `memory.parse_bytes`."""

    def convert(value):
        parse_bytes(as_text(value))
        return value

    return _option(default, convert, "bytes above 0, like '4MiB', '1.5 GB' or '3000000'", help)


def several(default: tuple, convert_one: Callable, allowed: str, help: str):
    """A tuple, every item of which `convert_one` accepts."""

    def convert(value):
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ValueError
        return tuple(convert_one(item) for item in value)

    return _option(default, convert, allowed, help)


class Section:
    """Checks its own fields; `prefix` is what the command line puts before their names."""

    prefix = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            rule = field.metadata.get("rule")
            if rule is None:
                continue
            found = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, rule.convert(found))
            except ValueError:
                raise ConfigError(self.prefix + field.name, found, rule.allowed) from None
