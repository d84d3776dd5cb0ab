"""Errors that a person reads: one line that says what was found, what is allowed, what to do."""


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
        self.field = field
        super().__init__(f"config.{field} is {found!r}; allowed: {allowed}")
