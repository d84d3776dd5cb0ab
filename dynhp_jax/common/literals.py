"""Python's literals in text that a person wrote or a file holds: read, never evaluated."""

import ast
from typing import Any

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
