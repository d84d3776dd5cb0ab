"""Kinds of values, declared once, by which files that are read back are checked.

A kind says what a value has to be, in words and in code, and what the parts of the value have to
be. `check` walks through a value and names the first part that does not fit, by its path.

>>> point = fields({"x": NUMBER, "tags": list_of(TEXT)}, optional={"size": WHOLE})
>>> check({"x": 1.5, "tags": ["a", 3]}, point)
Traceback (most recent call last):
dynhp_jax.common.schema.Unfit: its tags[1] is not a text
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

_LARGEST = 2**63 - 1  # of a whole number that arrays, files and clocks can have
_SHOWN = 40  # characters of a name


class Unfit(ValueError):
    """A value is not of its kind; the text is a phrase such as 'it has no epoch'."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
      what: in words, for the line that names a damaged file.
      holds: whether a value is one, its parts aside.
      parts: of a value that is one, as (path from the value, part, kind of the part).
    """

    what: str
    holds: Callable[[Any], bool]
    parts: Callable[[Any], Iterable[tuple[str, Any, "Kind"]]] = lambda value: ()


def check(value: Any, kind: Kind) -> None:
    """Raises Unfit, with the path of the first part that is wrong, unless the value is of the kind.

    Args:
      value: what was read.
      kind: of the whole value.
    """
    waiting = [("", value, kind)]
    while waiting:
        path, part, wanted = waiting.pop()
        place = path.removeprefix(".")
        if part is _MISSING:
            raise Unfit(f"it has no {place}")
        if not wanted.holds(part):
            raise Unfit(f"{f'its {place}' if place else 'it'} is not {wanted.what}")
        inside = [(path + step, each, of) for step, each, of in wanted.parts(part)]
        waiting += reversed(inside)


def shown(name: str) -> str:
    """A name out of a file, such that a line with it stays one that a terminal can show.

    >>> shown("hidden_1"), shown("a" * 50 + chr(7))
    ('hidden_1', "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'")
    """
    return name if name.isprintable() and len(name) <= _SHOWN else repr(name[:_SHOWN])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # The bound keeps out whole numbers that no float holds, and NaN, which is below nothing.
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) <= sys.float_info.max


def whole(least: int = 0, most: int = _LARGEST) -> Kind:
    """A whole number in [least, most]."""
    to = "or more" if most == _LARGEST else f"to {most}"
    return Kind(
        f"a whole number, {least} {to}", lambda value: _is_whole(value) and least <= value <= most
    )


ANY = Kind("a value", lambda value: True)
WHOLE = whole()
POSITIVE = whole(1)
NUMBER = Kind("a finite number", _is_number)
NOT_NEGATIVE = Kind("a finite number, 0 or more", lambda v: _is_number(v) and v >= 0)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
MAPPING = Kind("an object", lambda value: isinstance(value, Mapping))
NAME = Kind(  # of a file or directory: one that leads nowhere else
    "a name without '/'",
    lambda v: isinstance(v, str) and v not in ("", ".", "..") and not {"/", "\0"} & set(v),
)
SHA256 = Kind(
    "a sha256 in hexadecimal digits",
    lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef"),
)


def optional(kind: Kind) -> Kind:
    """The kind, or null."""
    return Kind(
        f"{kind.what} or null",
        lambda value: value is None or kind.holds(value),
        lambda value: () if value is None else kind.parts(value),
    )


def list_of(kind: Kind, least: int = 0) -> Kind:
    """A list of at least so many values, each of the kind."""
    words = "a list" if not least else f"a list of {least} or more"
    return Kind(
        words,
        lambda value: isinstance(value, list) and len(value) >= least,
        lambda value: ((f"[{place}]", each, kind) for place, each in enumerate(value)),
    )


def tuple_of(*kinds: Kind) -> Kind:
    """A list of as many values as there are kinds, each of its own."""
    return Kind(
        f"a list of {len(kinds)}",
        lambda value: isinstance(value, list) and len(value) == len(kinds),
        lambda value: ((f"[{k}]", *pair) for k, pair in enumerate(zip(value, kinds, strict=True))),
    )


def mapping_of(kind: Kind, least: int = 0) -> Kind:
    """An object with any names, at least so many, whose values are each of the kind."""
    return Kind(
        MAPPING.what if not least else "an object that is not empty",
        lambda value: isinstance(value, Mapping) and len(value) >= least,
        lambda value: ((f".{shown(name)}", each, kind) for name, each in value.items()),
    )


def fields(
    required: Mapping[str, Kind], optional: Mapping[str, Kind] = MappingProxyType({})
) -> Kind:
    """An object with these names; other names may be there too, as later versions write them.

    Args:
      required: the names that have to be there, each with the kind of its value.
      optional: the names that may be missing.
    """

    def parts(value):
        for name, kind in required.items():
            yield f".{name}", value.get(name, _MISSING), kind
        for name, kind in optional.items():
            if name in value:
                yield f".{name}", value[name], kind

    return Kind(MAPPING.what, MAPPING.holds, parts)


def rising(kind: Kind, what: str, key: Callable[[Any], Any] = lambda value: value) -> Kind:
    """A list of the kind's values in which each one's key is above the one before.

    Args:
      kind: of the values.
      what: the list in words.
      key: of a value that is of the kind.
    """

    def in_order(values):
        return all(key(a) < key(b) for a, b in itertools.pairwise(values))

    each = list_of(kind)
    # The order is a part of its own: it can be asked for only once all values are of their kind.
    ordered = Kind(what, in_order)
    return Kind(each.what, each.holds, lambda values: [*each.parts(values), ("", values, ordered)])


_MISSING = object()
