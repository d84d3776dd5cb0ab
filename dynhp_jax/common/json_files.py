"""JSON that is read back: strictly, against a schema, with a line for what is wrong.

Python's reader takes more than JSON allows: NaN, a name that an object has twice, of which it keeps
the last. Here these are faults, as are numbers that no float holds and texts that are no Unicode.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.common.errors import UserError


class NotJson(ValueError):
    """A text is no JSON; the message is a phrase.

    Attributes:
      line: in which the fault is, from 1; None if that is not known.
    """

    def __init__(self, what: str, line: int | None = None):
        self.line = line
        super().__init__(what)


def loads(content: bytes) -> Any:
    """The value that bytes hold as JSON in UTF-8.

    Raises:
      NotJson: they hold none.

    >>> loads(b'{"epoch": 1}')
    {'epoch': 1}
    >>> loads(b'{"epoch": NaN}')
    Traceback (most recent call last):
    dynhp_jax.common.json_files.NotJson: NaN is no number of JSON
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotJson("it is no text in UTF-8", line) from None
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repetition,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"it is no JSON ({error.msg})", error.lineno) from None
    except UnicodeEncodeError:
        raise NotJson("a text in it is no Unicode") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError:  # Python's limit on the digits of whole numbers
        raise NotJson("a number in it has too many digits") from None
    return value


def read(path: Path, kind: schema.Kind, remedy: str) -> Any:
    """The value that lies in a file.

    Args:
      path: of the file.
      kind: what the value has to be.
      remedy: what to do where it is not, as an order: 'remove it'.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it cannot be read, holds no JSON, or another value; one line that names file, line
        or path in the value, and the remedy.
    """
    content = read_bytes(path, remedy)
    try:
        value = loads(content)
        schema.check(value, kind)
    except NotJson as fault:
        line = f", line {fault.line}" if fault.line else ""
        raise UserError(f"{path}{line}: {fault}; {remedy}") from None
    except schema.Unfit as fault:
        raise UserError(f"{path}: {fault}; {remedy}") from None
    return value


def read_bytes(path: Path, remedy: str) -> bytes:
    """All of a file.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is no regular file, or cannot be read.
    """
    try:
        # Asked first: to open a named pipe would wait for somebody to write into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file that can be read; {remedy}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.islink(path):
            raise UserError(f"{path} is a link to nothing; {remedy}") from None
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> None:
    raise NotJson(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"{text[:20]} is too large for a number")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"an object in it has {schema.shown(twice)} twice")
    return found
