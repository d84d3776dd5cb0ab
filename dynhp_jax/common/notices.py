"""What a user is told while a run goes on: warnings that are shown each time they are given."""

import warnings


class Notice(UserWarning):
    """Something that the user of a run should know of; a line."""


def warn(message: object) -> None:
    """Gives a `Notice`, also where the same one was given before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.warn(str(message), Notice, stacklevel=2)
