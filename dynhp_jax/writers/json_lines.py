"""Records as lines of JSON."""

import json
import math
import os

from dynhp_jax.common import paths
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.growing_file import GrowingFile
from dynhp_jax.writers.writer import Record, Started


def line_of(record: Record) -> bytes:
    r"""A record as a line.

    >>> line_of({"epoch": 1, "test_error": 2.5})
    b'{"epoch": 1, "test_error": 2.5}\n'

    Raises:
      UserError: a number of the record is not finite.
    """
    try:
        return json.dumps(record, allow_nan=False).encode() + b"\n"
    except ValueError:
        wrong = [name for name, value in record.items()
                 if isinstance(value, float) and not math.isfinite(value)]  # fmt: skip
        raise UserError(
            f"{', '.join(wrong) or 'a number'} of epoch {record['epoch']} is NaN or infinite;"
            " a smaller config.optimizer.learning_rate may help"
        ) from None


class JsonLines:
    """A file with a line for every epoch of a run, from its first epoch on.

    A run that goes on finds in it the epochs that are done, whatever the file held before; a new
    run begins it anew. Nothing is written before the first record. A run with a directory has such
    a file there, metrics.jsonl.

    Args:
      path: of the file, in a directory that is there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = paths.given(path, "the path of JsonLines")
        self._done: list[bytes] = []
        self._file: GrowingFile | None = None

    def begin(self, started: Started) -> None:
        """Notes the epochs that are done."""
        self._done, self._file = [line_of(record) for record in started.records], None

    def __call__(self, record: Record) -> None:
        """Adds a line, which is on the disk when this returns."""
        line = line_of(record)
        if self._file is None:
            self._file = GrowingFile(self.path, b"".join(self._done))
        self._file.extend(line)
