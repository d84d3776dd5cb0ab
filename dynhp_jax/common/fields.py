"""Fields of frozen dataclasses that check themselves: what they accept, in code and in words."""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

from dynhp_jax.common import own_code, paths
from dynhp_jax.common.byte_sizes import parse_bytes
from dynhp_jax.common.errors import ArgumentError, ConfigError, UserError

LARGEST_WHOLE = 2**31 - 1  # programs hold counts and positions as int32
# Programs compute in float32: what is above is infinite there, what is closer to 0 is 0.
LARGEST = 3.4028234e38
_SMALLEST = 1.1754944e-38


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field accepts: `convert` returns the value to store or raises ValueError."""

    convert: Callable[[Any], Any]
    allowed: str
    help: str


def _option(default, convert, allowed: str, help: str):
    return dataclasses.field(default=default, metadata={"rule": Rule(convert, allowed, help)})


def as_real(value) -> float:
    """A finite number, also in float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if not -LARGEST <= value <= LARGEST:
        raise ValueError
    return float(value)


def as_whole(value) -> int:
    """An integer that programs can count to."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST_WHOLE:
        raise ValueError
    return value


def as_text(value) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def number(default: float, low: float, high: float, allowed: str, help: str):
    """A float in [low, high]; no `high` is above what float32 has."""
    if math.isinf(high):
        allowed = f"{allowed}, at most {LARGEST:.3g}"

    def convert(value):
        value = as_real(value)
        if not low <= value <= high:
            raise ValueError
        return value

    return _option(default, convert, allowed, help)


def positive(default: float, help: str):
    """A float above 0."""
    return number(default, _SMALLEST, math.inf, f"a number above 0, at least {_SMALLEST:.3g}", help)


def whole(default: int, low: int, help: str, high: int = LARGEST_WHOLE):
    """An integer in [low, high]."""

    def convert(value):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return _option(default, convert, f"a whole number, {low} to {high}", help)


def switch(default: bool, help: str):
    """True or False."""

    def convert(value):
        if not isinstance(value, bool):
            raise ValueError
        return value

    return _option(default, convert, "True or False", help)


def choice(default: str, names: Collection[str], help: str):
    """One of the given names: of a tuple, or of a registry, which may get more of them."""

    def convert(value):
        if value not in tuple(names):
            raise ValueError
        return value

    return _option(default, convert, ", ".join(repr(name) for name in names), help)


def named(default: str, names: tuple[str, ...], help: str):
    """One of the given names, or `module:object` of one's own, which is imported later."""

    def convert(value):
        if value not in names and not own_code.is_own(as_text(value)):
            raise ValueError
        return value

    allowed = f"{', '.join(repr(name) for name in names)}, or module:object of your own"
    return _option(default, convert, allowed, help)


def text(default: str, help: str, allowed: str = "a string"):
    """A string."""
    return _option(default, as_text, allowed, help)


def path_name(default: str, help: str):
    """A name of which paths are made."""

    def convert(value):
        if not paths.is_name(as_text(value)):
            raise ValueError
        return value

    return _option(default, convert, paths.NAMES, help)


def size_in_bytes(default: str, help: str):
    """A number of bytes as text, with or without a unit; see `byte_sizes.parse_bytes`.

    Where the default is '' an empty text is allowed, too.
    """
    allowed = "bytes above 0, like '4MiB', '1.5 GB' or '3000000'"

    def convert(value):
        if default or as_text(value):
            parse_bytes(as_text(value))
        return value

    return _option(default, convert, allowed if default else f"{allowed}; or empty", help)


def several(default: tuple, convert_one: Callable, allowed: str, help: str):
    """A tuple, every item of which `convert_one` accepts."""

    def convert(value):
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ValueError
        return tuple(convert_one(item) for item in value)

    return _option(default, convert, allowed, help)


class Checked:
    """Checks its own fields; `prefix` is what an error puts before their names."""

    prefix = ""
    refused: type[UserError] = ArgumentError

    def __post_init__(self):
        for field in dataclasses.fields(self):
            rule = field.metadata.get("rule")
            if rule is None:
                continue
            found = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, rule.convert(found))
            except ValueError:
                raise self.refused(self.prefix + field.name, found, rule.allowed) from None


class Section(Checked):
    """A part of the config; `prefix` is what the command line puts before its fields' names."""

    refused = ConfigError
