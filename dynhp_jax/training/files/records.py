"""The lines of metrics.jsonl, a second copy of them, and how both are known to be true.

metrics.jsonl has a line for every epoch. The same lines go into a second file beside the
checkpoints, and every checkpoint holds their number and sha256, a `Seal`: so a line that was
changed is noticed, and a file that was lost is written again. Both files only grow, so that an
epoch costs the same however many there were before.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common import json_files, schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.growing_file import GrowingFile, content_of, unreadable_as_nothing
from dynhp_jax.common.notices import warn
from dynhp_jax.writers.json_lines import line_of

Record = dict[str, Any]

_UNITS = schema.mapping_of(schema.WHOLE)
RECORD = schema.fields(  # what is read again of a line; there is more in it
    {
        "epoch": schema.POSITIVE,
        "units": _UNITS,
        "active": schema.mapping_of(schema.NOT_NEGATIVE),
        "parameters": schema.POSITIVE,
        "batch_size": schema.POSITIVE,
        "variance_ratio": schema.NOT_NEGATIVE,
        "model_kib": schema.NOT_NEGATIVE,
        "memory_kib": schema.NOT_NEGATIVE,
        "allocated_kib": schema.optional(schema.NOT_NEGATIVE),
        "allocated": schema.mapping_of(schema.mapping_of(schema.NOT_NEGATIVE)),
        "budget_kib": schema.optional(schema.NOT_NEGATIVE),
        "seconds": schema.NOT_NEGATIVE,
        "compile_seconds": schema.NOT_NEGATIVE,
    },
    optional={  # of a classification
        "cross_entropy": schema.NUMBER,
        "test_error": schema.NOT_NEGATIVE,
        "validation_error": schema.NOT_NEGATIVE,
    },
)


@dataclasses.dataclass(frozen=True)
class Seal:
    """What a checkpoint knows of the lines of its epochs.

    Attributes:
      first, last: epochs of the first and the last line; there is one for each between them.
      bytes: of these lines.
      sha256: of these bytes.
    """

    first: int
    last: int
    bytes: int
    sha256: str

    def holds(self, content: bytes) -> bool:
        """Whether bytes begin with these lines."""
        lines = content[: self.bytes]
        return len(lines) == self.bytes and hashlib.sha256(lines).hexdigest() == self.sha256


SEAL = schema.fields(
    {
        "first": schema.POSITIVE,
        "last": schema.POSITIVE,
        "bytes": schema.POSITIVE,
        "sha256": schema.SHA256,
    }
)


class Records:
    """The two files of a run.

    Args:
      file: metrics.jsonl.
      copy: the second one.
      seal: of the newest checkpoint; None where there is none.
    """

    def __init__(self, file: Path, copy: Path, seal: Seal | None):
        self.file, self.copy = file, copy
        self._seal = seal

    def read(self) -> list[Record]:
        """The records of all epochs; a last line that a killed run did not finish is left out.

        Raises:
          UserError: a line is damaged, missing or not the one that was written, and the file has to
            be removed; or there is nothing from which it could be written again.
        """
        return _parsed(self._content(), self.file, self._remedy())

    def begin(self, epoch: int) -> list[Record]:
        """Makes both files ready for the epoch after this one, and returns the records up to it.

        Lines of later epochs go: these are trained again.
        """
        content = self._content()
        kept = [each for each in _parsed(content, self.file, "") if each["epoch"] <= epoch]
        content = b"".join(line + b"\n" for line in _lines(content)[: len(kept)])
        if content and not content_of(self.file):
            warn(f"{self.file} was lost; it is written again, from {self.copy}")
        if content and not unreadable_as_nothing(self.copy).startswith(content):
            warn(f"{self.copy} was lost or damaged; it is written again, from {self.file}")
        self._lines, self._copied = (GrowingFile(path, content) for path in (self.file, self.copy))
        self._first, self._last = (kept[0]["epoch"] if kept else epoch + 1), epoch
        self._pending, self._sha256 = b"", hashlib.sha256(content)
        return kept

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl; it is on the disk when this returns.

        Raises:
          UserError: a number of the record is not finite, or the file is not as it was left.
        """
        line = line_of(record)
        self._lines.extend(line)
        self._last = record["epoch"]
        self._pending += line
        self._sha256.update(line)

    def seal(self) -> dict[str, Any]:
        """Brings the second file up to date; returns what a checkpoint has to hold of the lines."""
        if self._copied.size == 0:
            self.copy.parent.mkdir(exist_ok=True)
        self._copied.extend(self._pending)
        self._pending = b""
        return dataclasses.asdict(
            Seal(self._first, self._last, self._copied.size, self._sha256.hexdigest())
        )

    def _content(self) -> bytes:
        """Whole lines, of metrics.jsonl or, where that is lost, of the copy; as the seal says."""
        content = content_of(self.file)
        if not content and self._seal:
            content = unreadable_as_nothing(self.copy)
            if not self._seal.holds(content):
                raise UserError(
                    f"{self.file} is missing or empty, and {self.copy} does not have its epochs"
                    " either; put one of them back, or take another --workdir"
                )
            content = content[: self._seal.bytes]
        content = content[: content.rfind(b"\n") + 1]
        if self._seal and not self._seal.holds(content):
            raise self._damage(content)
        return content

    def _damage(self, content: bytes) -> UserError:
        """Where metrics.jsonl is not what the checkpoint says."""
        seal, remedy = self._seal, self._remedy()
        found = _parsed(content, self.file, remedy)  # raises where a line is none
        if len(found) <= seal.last - seal.first:
            return UserError(
                f"{self.file} has {len(found)} epochs that can be read, its checkpoint is of epoch"
                f" {seal.last}; {remedy}"
            )
        written = _lines(unreadable_as_nothing(self.copy))
        pairs = enumerate(zip(_lines(content), written, strict=False), 1)
        line = next((f", line {k}" for k, (here, there) in pairs if here != there), "")
        return UserError(
            f"{self.file}{line}: it is not what was written by epoch {seal.last}, as its checkpoint"
            f" says; {remedy}"
        )

    def _remedy(self) -> str:
        """What to do about a damaged metrics.jsonl."""
        if self._seal is None:
            return "remove it, and the same command begins again with epoch 1"
        if self._seal.holds(unreadable_as_nothing(self.copy)):
            return f"remove it, and the same command writes it again, from {self.copy}"
        return "put it back as it was, or take another --workdir"


def _parsed(content: bytes, file: Path, remedy: str) -> list[Record]:
    """Records of whole lines, whose epochs count up by one.

    Raises:
      UserError: one line that names the first line that is none.
    """
    records: list[Record] = []
    for number, line in enumerate(_lines(content), 1):
        try:
            record = json_files.loads(line)
            schema.check(record, RECORD)
            if records:
                _check_follows(records[-1], record)
        except (json_files.NotJson, schema.Unfit) as fault:
            raise UserError(f"{file}, line {number}: {fault}; {remedy}") from None
        records.append(record)
    return records


def _lines(content: bytes) -> list[bytes]:
    """Those that are finished, without their ends."""
    return content.split(b"\n")[:-1]


def _check_follows(before: Record, record: Record) -> None:
    if record["epoch"] != before["epoch"] + 1:
        raise schema.Unfit(f"its epoch is {record['epoch']}, that of the line before it is"
                           f" {before['epoch']}")  # fmt: skip
    for name in ("units", "active"):
        if record[name].keys() != before[name].keys():
            raise schema.Unfit(f"its {name} are of other groups than in the line before it")
