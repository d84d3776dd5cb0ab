"""Paths that people type in flags, in fields of a config and in the environment, and names in them.

A path may begin with `~`. What cannot be a path is a UserError, which says where it was given.
"""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynhp_jax.common.errors import UserError, shown

_NAME = 255  # bytes of a file's name, on nearly all file systems
_PATH = 4_096 - 512  # of a whole path, with room for the files of a run below it
_NAME_OF_A_RUN = 200  # with room for a method, a seed and an ending
NAMES = (
    "a name that a folder may have, such as 'digits' or 'mine/digits': printable, without '..' or"
    f" '.' between slashes, no slash at its ends, at most {_NAME_OF_A_RUN} bytes"
)


def given(path: str | os.PathLike, where: str) -> Path:
    """The absolute path that somebody gave.

    >>> given("/data/../images", "--workdir")
    PosixPath('/data/../images')

    Args:
      path: with or without `~` or `~USER`; '' is the folder where the program was started.
      where: what it was given as, for the message: `--workdir`, `config.data.dir`, `DYNHP_CACHE`.

    Raises:
      UserError: it is no path, or of a user who has no home directory.
    """
    text = os.fspath(path)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise _refused(where, text, "it is no text in UTF-8") from None
    if b"\0" in encoded:
        raise _refused(where, text, "it holds a NUL character")
    try:
        found = Path(text).expanduser().absolute()
    except RuntimeError:
        raise _refused(where, text, f"{text.split('/')[0]!r} has no home directory") from None
    whole = os.fsencode(found)
    if len(whole) > _PATH or max(map(len, whole.split(b"/"))) > _NAME:
        raise _refused(where, text, f"it is longer than {_NAME} bytes a name, {_PATH} in all")
    return found


def of_environment(variable: str) -> Path | None:
    """The path that a variable of the environment gives; None where it is not set, or empty.

    Raises:
      UserError: it is no path.
    """
    text = os.environ.get(variable)
    return given(text, variable) if text else None


def in_home(*parts: str) -> Path | None:
    """A path below the user's home; None where there is none, as for a container's unknown user."""
    try:
        return Path("~", *parts).expanduser()
    except RuntimeError:
        return None


def is_name(text: str) -> bool:
    """Whether a text may be part of a path and does not lead out of the folder that it is for.

    >>> [is_name(text) for text in ("digits", "a/b", "a/../b", "/a", "", "a\\0")]
    [True, True, False, False, False, False]
    """
    return all(map(_is_one_name, text.split("/")))


def is_file_name(text: str) -> bool:
    """Whether a text may be the name of a file, before an ending.

    >>> [is_file_name(text) for text in ("hp+ce", "a/b", "x" * 201)]
    [True, False, False]
    """
    return "/" not in text and _is_one_name(text)


def make_writable(folders: Mapping[str, Path]) -> None:
    """Makes folders, and a file in each for a moment; all of them, or none.

    Args:
      folders: by what gave them, for the message.

    Raises:
      UserError: one of them cannot be written.
    """
    made: list[Path] = []
    for where, folder in folders.items():
        try:
            made += make(folder)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            remove_empty(made)
            raise UserError(
                f"{where}: {folder} cannot be written ({error.strerror or error}); make room, or"
                " choose a directory that can be"
            ) from None


def make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; gives those that were not there, the innermost last.

    Raises:
      OSError: it cannot be made; then none of them is left.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Sequence[Path]) -> None:
    """Takes away those of these folders, the innermost last, that hold nothing."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # something lies in it, or it is not there
            folder.rmdir()


def _is_one_name(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and part.isprintable()
        and part == part.strip()
        and len(part.encode()) <= _NAME_OF_A_RUN
    )


def _refused(where: str, text: str, why: str) -> UserError:
    return UserError(f"{where} is {shown(text)}: {why}; give the whole path of another folder")
