"""A file that only grows at its end, by whole lines, while nobody else writes to it."""

import os
from pathlib import Path

from dynhp_jax.common import disk, json_files
from dynhp_jax.common.errors import UserError


class GrowingFile:
    """A file that a run adds lines to.

    Args:
      path: of the file; one that would be empty is not there.
      content: that it has from now on; it is not written again where it is there.

    Attributes:
      path: as given.
      size: bytes that it holds.

    Raises:
      OSError: it cannot be written.
    """

    def __init__(self, path: Path, content: bytes = b""):
        self.path, self.size = path, len(content)
        if content and unreadable_as_nothing(path) != content:
            disk.write_bytes(path, content)
        elif not content:
            path.unlink(missing_ok=True)

    def extend(self, lines: bytes) -> None:
        """Adds whole lines, all of them or none; they are on the disk when this returns.

        Raises:
          UserError: the file is not as it was left.
          OSError: there is no room.
        """
        new = os.O_CREAT | os.O_EXCL if self.size == 0 else 0
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | new, 0o666)
        except (FileNotFoundError, FileExistsError):
            raise self._changed() from None
        with disk.naming(self.path), open(descriptor, "ab", buffering=0) as file:
            if os.fstat(descriptor).st_size != self.size:
                raise self._changed()
            try:
                rest = lines
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(descriptor)
            except OSError:
                file.truncate(self.size)  # a part of a line is none
                raise
        self.size += len(lines)

    def _changed(self) -> UserError:
        return UserError(
            f"{self.path} was removed or changed while the run went on, so that it ends here; the"
            " same command goes on from the newest checkpoint"
        )


def content_of(path: Path) -> bytes:
    """All of a file; nothing where there is none.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return json_files.read_bytes(path, "move it away")
    except FileNotFoundError:
        return b""


def unreadable_as_nothing(path: Path) -> bytes:
    """All of a file; nothing where there is none, or none that can be read."""
    try:
        return content_of(path)
    except UserError:
        return b""
