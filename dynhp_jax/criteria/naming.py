"""Criteria by text, as a config holds them: a name, with options if wanted, or a class of your own.

>>> parse("flexrel(delta=0.25)").delta
0.25
>>> parse("dynhp_jax.criteria.l1:L1(members='both')")
L1(members='both', scale='mean', reduction='mean')
"""

import ast
import importlib
import re
from typing import Any

from dynhp_jax.criteria import CRITERIA, get
from dynhp_jax.criteria.evidence import Criterion
from dynhp_jax.errors import UserError

_PARTS = re.compile(r"(?:(?P<module>[\w.]+):)?(?P<name>\w+)(?P<options>\(.*\))?", re.DOTALL)


def parse(text: str) -> Criterion:
    """The criterion that a text names.

    Args:
      text: `NAME`, `NAME(option=value, ...)`, or `module:Class` with or without options, for a
        class that can be imported from where the program was started.

    Raises:
      UserError: there is no such criterion, module, class or option; the text says what is allowed.
    """
    parts = _PARTS.fullmatch(text.strip())
    if parts is None:
        raise UserError(
            f"{text!r} names no criterion; allowed: {', '.join(CRITERIA)}, one of these with"
            " options, such as flexrel(delta=0.25), or module:Class of your own"
        )
    options = _options(text, parts["options"] or "()")
    if parts["module"] is None:
        return get(parts["name"], **options)
    kind = _imported(text, parts["module"], parts["name"])
    try:
        criterion = kind(**options)
    except TypeError as error:
        raise UserError(f"criterion {text!r} cannot be made: {error}") from None
    if not callable(getattr(criterion, "scores", None)):
        raise UserError(f"criterion {text!r} has no method scores(evidence)")
    return criterion


def _options(text: str, call: str) -> dict[str, Any]:
    try:
        made = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(made, ast.Call) or made.args or None in [k.arg for k in made.keywords]:
            raise ValueError
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in made.keywords}
    except (SyntaxError, ValueError):
        raise UserError(
            f"the options of criterion {text!r} are not option=value with numbers, strings or"
            " tuples, and commas between them"
        ) from None


def _imported(text: str, module: str, name: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UserError(
            f"criterion {text!r}: there is no module {error.name!r}; it has to lie where the"
            " program was started, or be installed"
        ) from None
    if not hasattr(found, name):
        raise UserError(f"criterion {text!r}: the module {module!r} has no {name!r}")
    return getattr(found, name)
