"""Files and directories: removed whole, flushed, and with errors that say where they were."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished-"  # begins the names of what nobody looks at


def files(path: Path) -> list[Path]:
    """Everything below `path`, the innermost first, so that a directory comes after its files."""
    return sorted(path.rglob("*"), key=lambda each: -len(each.parts))


def remove(path: Path) -> None:
    """Removes a directory such that a kill in between leaves no half of it under its name."""
    if path.exists():
        doomed = path.with_name(f"{UNFINISHED}old-{path.name}")
        destroy(doomed)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(doomed)
        destroy(doomed)


def destroy(path: Path) -> None:
    """Removes a directory or, where something else has its name, that."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(path: Path, size: int) -> None:
    """Takes the room that so many bytes need, and gives it back.

    Orbax writes from threads of its own, and on a full disk each of them fills stderr with
    tracebacks; so a full disk has to be found before.
    """
    try:
        with naming(path), open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path):
    """Says in an OSError where it was: the system leaves that out when a write fails."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def disk_errors(directory: Path):
    """Orbax reports a full disk as a ValueError, with the system's words in it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        for words in ("No space left on device", "Read-only file system", "File too large",
                      "Permission denied", "Disk quota exceeded"):  # fmt: skip
            if words in str(error):
                raise OSError(f"{words}: {directory}") from error
        raise


def write_json(path: Path, values: Any) -> None:
    """Writes all of a file or nothing."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes all of a file or nothing."""
    write_bytes(path, content.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes all of a file or nothing."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    destroy(unfinished)
    try:
        with naming(path), open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        destroy(unfinished)
        raise
