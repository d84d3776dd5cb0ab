"""Errors that a person reads: one line that says what was found, what is allowed, what to do."""

_LONGEST, _HEAD = 500, 60  # characters of a value in an error, and those shown of a longer one


class UserError(ValueError):
    """Something only the user can mend; the command line prints it as one line and exits with 2."""


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
