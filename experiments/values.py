"""Numbers in flags and names: read from lists with commas, and written so that none is lost."""

from collections.abc import Callable
from typing import Any

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.training import config as configuration


def value_of(flag: str, text: str, field: str) -> Any:
    """The number that a flag gives for a field of the config.

    >>> value_of("epochs", "400", "epochs")
    400

    Args:
      flag: its name, for the message.
      text: what was given.
      field: its dotted name; it says what is allowed.

    Raises:
      UserError: the field does not take it.
    """
    rule = configuration.rule(field)
    kind = type(configuration.flatten(configuration.Config())[field])
    return _read(flag, text, kind, rule.convert, f"allowed: {rule.allowed}")


def values_of(flag: str, text: str, field: str) -> list:
    """The numbers of a list with commas, each once; arguments and errors are those of `value_of`.

    >>> values_of("alphas", "0.95,0.5", "batch.alpha")
    [0.95, 0.5]
    """
    return each_once(flag, text, [value_of(flag, part, field) for part in text.split(",")])


def numbers(flag: str, text: str, kind: Callable, least: float, most: float) -> list:
    """The numbers of a list with commas that are for no field, each once.

    Args:
      flag: its name, for the message.
      text: what was given.
      kind: int or float.
      least, most: what each has to lie between.

    Raises:
      UserError: one of them is no such number, or is there twice.
    """

    def accept(value):
        if not least <= value <= most:
            raise ValueError
        return value

    what = "whole numbers" if kind is int else "numbers"
    allowed = f"allowed: {what}, {shortest(least)} to {shortest(most)}, with commas between them"
    parts = text.split(",")
    return each_once(flag, text, [_read(flag, part, kind, accept, allowed) for part in parts])


def each_once(flag: str, text: str, found: list) -> list:
    """What a flag lists, if nothing is in it twice.

    Args:
      flag, text: its name and what was given, for the message.
      found: what the text was read as.

    Raises:
      UserError: something is.
    """
    if len(set(found)) < len(found):
        raise UserError(f"--{flag}: {shown(text)} names a value twice; give each once")
    return found


def _read(flag: str, text: str, kind: Callable, accept: Callable, allowed: str) -> Any:
    try:
        return accept(kind(text))
    except ValueError:
        raise UserError(f"--{flag}: {shown(text)} is not allowed; {allowed}") from None


def shortest(value: float) -> str:
    """A number as short as it can be without being another one.

    >>> shortest(0.980), shortest(2.0), shortest(0.12345678), shortest(1000001)
    ('0.98', '2', '0.12345678', '1000001')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
