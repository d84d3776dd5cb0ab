"""Numbers in flags and names: read from lists with commas, and written so that none is lost."""

import math
from collections.abc import Callable

from dynhp_jax.errors import UserError


def numbers(flag: str, text: str, kind: Callable, least: float, most: float = math.inf) -> list:
    """The numbers of a list with commas.

    >>> numbers("alphas", "0.95,0.5", float, 0, 1)
    [0.95, 0.5]

    Args:
      flag: its name, for the message.
      text: what was given.
      kind: int or float.
      least, most: what each has to lie between; infinity does not.

    Raises:
      UserError: one of them is no such number.
    """
    what = "whole numbers" if kind is int else "numbers"
    allowed = f"{what}, {_range(least, most)}, with commas between them"
    return [_read(flag, part, kind, least, most, allowed) for part in text.split(",")]


def number(flag: str, text: str, kind: Callable, least: float, most: float = math.inf):
    """The one number of a flag; arguments and errors are those of `numbers`.

    >>> number("epochs", "400", int, 1)
    400
    """
    what = "one whole number" if kind is int else "one number"
    return _read(flag, text, kind, least, most, f"{what}, {_range(least, most)}")


def _read(flag: str, text: str, kind: Callable, least: float, most: float, allowed: str):
    try:
        value = kind(text)
        if not least <= value <= most or math.isinf(value):
            raise ValueError
    except ValueError:
        raise UserError(f"--{flag}: {text!r} is not allowed; {allowed}") from None
    return value


def _range(least: float, most: float) -> str:
    return f"{shortest(least)} {'or more' if most == math.inf else f'to {shortest(most)}'}"


def shortest(value: float) -> str:
    """A number as short as it can be without being another one.

    >>> shortest(0.980), shortest(2.0), shortest(0.12345678), shortest(1000001)
    ('0.98', '2', '0.12345678', '1000001')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
