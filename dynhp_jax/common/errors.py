"""Errors that a person reads: one line that says what was found, what is allowed, what to do."""

import contextlib
from collections.abc import Iterator

_LONGEST, _HEAD = 500, 60  # characters of a value in an error, and those shown of a longer one


class UserError(ValueError):
    """Something only the user can mend; the command line prints it as one line and exits with 2."""


class ArgumentError(UserError):
    """An argument of a function holds a value that is not allowed.

    Args:
      name: of the argument.
      found: the value found there.
      allowed: what would be accepted, as a phrase ("a number from 0 to 1").
    """

    def __init__(self, name: str, found: object, allowed: str):
        self.name, self.found, self.allowed = name, found, allowed
        super().__init__(f"{name} is {shown(found)}; allowed: {allowed}")


class ConfigError(UserError):
    """A configuration field holds a value that is not allowed.

    Args:
      field: dotted name of the field, as the command line spells it (`pruning.gamma`).
      found: the value found there.
      allowed: what would be accepted, as a phrase ("a number from 0 to 1").
    """

    def __init__(self, field: str, found: object, allowed: str):
        self.field, self.allowed = field, allowed
        super().__init__(f"config.{field} is {shown(found)}; allowed: {allowed}")


@contextlib.contextmanager
def of_fields(**fields: str) -> Iterator[None]:
    """Raises a function's ArgumentError as the ConfigError of the field that the argument is from.

    >>> with of_fields(gamma="pruning.gamma"):
    ...     raise ArgumentError("gamma", 2, "a number from 0 to 1")
    Traceback (most recent call last):
    dynhp_jax.common.errors.ConfigError: config.pruning.gamma is 2; allowed: a number from 0 to 1

    Args:
      **fields: the dotted name of a config field, for arguments by their names.
    """
    try:
        yield
    except ArgumentError as error:
        if error.name not in fields:
            raise
        raise ConfigError(fields[error.name], error.found, error.allowed) from None


def shown(value: object) -> str:
    """A value as an error shows it: its `repr`, of bounded length.

    >>> shown((300, 100)), shown(10**9999), len(shown("x" * 9999))
    ('(300, 100)', 'a value too long to be shown', 82)
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a value too long to be shown"
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_HEAD]}... ({len(text)} characters)"
