"""Code of one's own, by import path: who may name it, what it has to be, and how it fails.

Data is never code. `module:Class` imports its module where a person named it, at the command line,
in a config file that they named there, or in Python. The same text read back from a file, such as a
run's config.json, imports nothing: a run directory may come from anybody. This is the one module of
the library that imports by name, whatever the class is for.
"""

import contextlib
import dataclasses
import enum
import importlib
import inspect
import os
import re
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from dynhp_jax.common import literals
from dynhp_jax.common.errors import UserError

_TEXT = re.compile(r"(?:(?P<module>[\w.]+):)?(?P<name>\w+)(?P<options>\(.*\))?", re.DOTALL)
_LONGEST = 300  # characters of another's message
# Whose frames say nothing about where the code of one's own went wrong.
_NOT_OWN = tuple(
    os.path.join(folder, "")
    for folder in (
        os.path.dirname(os.path.dirname(__file__)),  # the library
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


class Origin(enum.Enum):
    """Where a text was read: it decides whether the text may name code of one's own."""

    PERSON = "the command line, a config file named there, or Python"
    FILE = "a file that a program wrote"


class OwnCodeError(UserError):
    """Code of one's own that fails or gives what it must not; the message names it.

    Args:
      whose: what the message begins with.
      said: what follows: what the code raised, or what is wrong with what it gave.
    """

    def __init__(self, whose: str, said: str):
        self.whose, self.said = whose, said
        super().__init__(f"{whose}{said}")


@dataclasses.dataclass(frozen=True)
class Role:
    """What the things are that a text may name.

    Attributes:
      word: for one of them ('criterion').
      method: that its class must have ('scores').
      names: of the library's own.
      make: the library's own of a name, with options.
      remedy: how a person names code of their own.
    """

    word: str
    method: str
    names: tuple[str, ...]
    make: Callable[..., Any]
    remedy: str


def instance(text: str, role: Role, origin: Origin) -> Any:
    """The object that a text names.

    Args:
      text: `NAME`, `NAME(option=value, ...)`, or `module:Class` with or without options.
      role: what it is for.
      origin: where the text was read.

    Raises:
      UserError: the text names nothing, or code of one's own that was read from a file.
      OwnCodeError: the module cannot be imported, what it has is no such class, or the class
        cannot be called.
    """
    parts = _TEXT.fullmatch(text.strip())
    if parts is None:
        raise UserError(
            f"{text!r} names no {role.word}; allowed: {', '.join(role.names)}, one of these with"
            " options, such as NAME(option=0.25), or module:Class of your own"
        )
    whose = f"{role.word} {text!r}"
    options = _options(whose, parts["options"] or "()")
    if parts["module"] is None:
        return role.make(parts["name"], **options)
    if origin is Origin.FILE:
        raise UserError(
            f"{whose} was read from a file, where only names of the library's own are allowed"
            f" ({', '.join(role.names)}); to run code of your own, {role.remedy}"
        )
    with guarded(whose):
        kind = _imported(parts["module"], parts["name"])
        _check_kind(kind, role.method, options)
        return kind(**options)


def is_own(text: str) -> bool:
    """Whether a text is `module:object`, not a name of the library's.

    >>> is_own("mine:Net(width=8)"), is_own("mlp")
    (True, False)
    """
    parts = _TEXT.fullmatch(text.strip())
    return parts is not None and parts["module"] is not None


def object_name(text: str) -> str:
    """The name of the object in a text `module:object`.

    >>> object_name("mine:far(by=2)")
    'far'
    """
    return _TEXT.fullmatch(text.strip())["name"]


def value(text: str, word: str, origin: Origin, remedy: str) -> Any:
    """What a text `module:object` names: the object itself, or the result of `object(options)`.

    A class is called without options, too.

    Args:
      text: `module:object`, with options in parentheses if it is to be called.
      word: for what it is ('model').
      origin: where the text was read.
      remedy: how a person names code of their own.

    Raises:
      UserError: the text was read from a file, or its options are no literals.
      OwnCodeError: the module cannot be imported or has no such object, or the call fails.
    """
    parts = _TEXT.fullmatch(text.strip())
    whose = f"{word} {text!r}"
    if origin is Origin.FILE:
        raise UserError(
            f"{whose} was read from a file, which may not name code of one's own; to run it,"
            f" {remedy}"
        )
    with guarded(whose):
        found = _imported(parts["module"], parts["name"])
        if parts["options"] is None and not inspect.isclass(found):
            return found
        return found(**_options(whose, parts["options"] or "()"))


def _options(whose: str, call: str) -> dict[str, Any]:
    try:
        return literals.options(call)
    except ValueError:
        raise UserError(
            f"the options of {whose} are not option=value with numbers, strings or tuples, and"
            " commas between them"
        ) from None


def _imported(module: str, name: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UserError(
            f"there is no module {error.name!r}; it has to lie where the program was started, or"
            " be installed"
        ) from None
    if not hasattr(found, name):
        raise UserError(f"the module {module!r} has no {name!r}")
    return getattr(found, name)


def _check_kind(kind: Any, method: str, options: dict[str, Any]) -> None:
    """Raises UserError unless it is a class for the purpose with these options; calls nothing."""
    if not issubclass(type(kind), type):
        raise UserError(f"it is no class; allowed: a frozen dataclass with the method {method!r}")
    found = inspect.getattr_static(kind, method, None)
    if not (callable(found) or isinstance(found, classmethod)):
        raise UserError(f"the class has no method {method}; allowed: a frozen dataclass with it")
    declared = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    known = [field.name for field in declared if field.init]
    for option in options:
        if option not in known:
            raise UserError(
                f"it cannot be made: the class has no option {option!r}; it has:"
                f" {', '.join(known) or 'none'} (the fields of a dataclass)"
            )


@contextlib.contextmanager
def guarded(whose: str, within: str = "") -> Iterator[None]:
    """Turns whatever code of one's own raises into one line that says whose it is.

    An exit counts as a failure, too; only Ctrl-C stays what it is.

    Args:
      whose: what the line begins with, such as "criterion 'own:Mine(a=1)'".
      within: what a guard of the same thing, further inside, may have called it.

    Raises:
      OwnCodeError: the code raised something.
    """
    with _noting_signals() as signals:
        try:
            yield
            return
        except OwnCodeError as error:
            same = error.whose in (whose, within)
            said, cause = error.said if same else f": {error}", error.__cause__
        except UserError as error:
            said, cause = f": {error}", error
        except BaseException as error:
            if signals and isinstance(error, KeyboardInterrupt):
                raise
            said, cause = f" fails: {_reason(error)}", error
    raise OwnCodeError(whose, said) from cause


@contextlib.contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """The signals that come meanwhile: code may raise a KeyboardInterrupt without any."""
    came: list[int] = []
    replaced: dict[int, Callable] = {}

    def note(number, frame):
        came.append(number)
        replaced[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
        replaced = {kind: handler for kind, handler in handlers.items() if callable(handler)}
    for kind in replaced:
        signal.signal(kind, note)
    try:
        yield came
    finally:
        for kind, handler in replaced.items():
            signal.signal(kind, handler)


def _reason(error: BaseException) -> str:
    """An exception's type, a line of its text, and the last line of own code that it is from."""
    try:
        text = str(error)
    except BaseException:  # its text is code of one's own, too
        text = ""
    lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()] or [""]
    line = lines[
        -1 if "Traceback (most recent call last)" in text else 0
    ]  # of a callback: the last
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}..."
    said = ": ".join(filter(None, (type(error).__name__, line)))
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__, limit=None)
        if not frame.filename.startswith((*_NOT_OWN, "<"))
    ]
    if isinstance(error, SyntaxError) or not own:  # a syntax error names the line itself
        return said
    return f"{said} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})"
