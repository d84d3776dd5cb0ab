"""Python's literals in text that a person wrote or a file holds: read, never evaluated."""

import ast
from collections.abc import Collection
from typing import Any

from dynhp_jax.common.errors import UserError

# What Python's parser raises of text: beside no syntax, an unhashable key, and too deep a nesting.
_FAULTS = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


def literal(text: str) -> Any:
    """The number, text, tuple, list or mapping that a text is.

    Raises:
      ValueError: it is none.

    >>> literal("(300, 100)")
    (300, 100)
    """
    try:
        return ast.literal_eval(text)
    except _FAULTS:
        raise ValueError("no literal") from None


def options(call: str) -> dict[str, Any]:
    """The literals that a call has by keyword: '(a=1, b=(2, 3))'.

    Raises:
      ValueError: it is no single call, has anything else, or a keyword twice.

    >>> options("(delta=0.25, weights='table')")
    {'delta': 0.25, 'weights': 'table'}
    """
    try:
        made = ast.parse(f"f{call}", mode="eval").body
        if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and not made.args:
            names = [keyword.arg for keyword in made.keywords]
            if None not in names and len(set(names)) == len(names):
                return {each.arg: ast.literal_eval(each.value) for each in made.keywords}
    except _FAULTS:
        pass
    raise ValueError("no call with literals by keyword")


def check_options(whose: str, given: Collection[str], known: Collection[str]) -> None:
    """Raises UserError for an option that the thing of a name does not have.

    Args:
      whose: what was named, as it is said ("rule 'decavg'").
      given: names of options.
      known: those that it has.
    """
    for option in given:
        if option not in known:
            said = ", ".join(known) or "none"
            raise UserError(f"{whose} has no option {option!r}; it has: {said}")
