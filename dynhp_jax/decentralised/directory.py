"""The directory of a decentralised run: records and checkpoints, from which it goes on."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from dynhp_jax.common import json_files, paths, processes, schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.growing_file import GrowingFile, content_of
from dynhp_jax.common.notices import warn
from dynhp_jax.training.files.followed import wait_for
from dynhp_jax.training.run import checkpoint
from dynhp_jax.writers.json_lines import line_of

Record = dict[str, Any]

_RECORD = schema.fields({"round": schema.POSITIVE})
_HOST = schema.fields({"made_of": schema.SHA256})


class RoundsDirectory:
    """Files of one run, held while it goes on; of several processes the first one holds them.

    Args:
      path: the directory; made when it is held.
      made_of: tells runs apart: of other data, placements, seeds, rules.
      keep: checkpoints that stay.
    """

    def __init__(self, path: Path, made_of: str, keep: int = 2):
        self.path, self._made_of, self._keep = path, made_of, keep
        self.checkpoints = path / "checkpoints"
        self.metrics_file = path / "metrics.jsonl"

    @contextlib.contextmanager
    def held(self) -> Iterator["RoundsDirectory"]:
        """Holds it for a run.

        Raises:
          UserError: another run holds it.
          OSError: it cannot be made or written.
        """
        lock = self.path / ".lock"
        with contextlib.ExitStack() as closing:
            with processes.together("the directory of the run"):
                if processes.leads():
                    paths.make(self.path)
                    self._lock(closing.enter_context(open(lock, "a")))
            with processes.together("the same directory"):
                wait_for(lock)
            yield self

    def _lock(self, file: IO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing to {self.path}; wait for it") from None

    def begin(self, shapes: Any) -> tuple[Any, list[Record]]:
        """What the run goes on from: the state of its newest checkpoint, and the records up to it.

        Args:
          shapes: of the state, with their shardings.

        Returns:
          (None, []) for a new run. Lines of rounds after the checkpoint go: they come again.

        Raises:
          UserError: a run of something else lies here, or what lies here is damaged.
        """

        def expected(host: dict[str, Any]) -> Any:
            schema.check(host, _HOST)
            if host["made_of"] != self._made_of:
                raise UserError(
                    f"{self.path} holds a run of other data, nodes, weights or options; take"
                    " another --workdir, or remove this one"
                )
            return shapes

        with processes.together("what is left unfinished"):
            if processes.leads():
                checkpoint.sweep(self.checkpoints)
        found = checkpoint.restore(self.checkpoints, expected, warn)
        done = found.epoch if found else 0
        lines = content_of(self.metrics_file).split(b"\n")[:-1][:done]
        records = [self._record(number, line) for number, line in enumerate(lines, 1)]
        if len(records) < done:
            raise UserError(
                f"{self.metrics_file} has {len(records)} rounds, the newest checkpoint is of round"
                f" {done}; put the file back, or take another --workdir"
            )
        with processes.together("the records"):
            if processes.leads():
                kept = b"".join(line + b"\n" for line in lines)
                self._file = GrowingFile(self.metrics_file, kept)
        return (found.state if found else None), records

    def add(self, records: Sequence[Record], state: Any) -> None:
        """Records of some rounds, and the state after the last one; on the disk when it returns."""
        last = records[-1]["round"]
        with processes.together(f"the records up to round {last}"):
            if processes.leads():
                self._file.extend(b"".join(map(line_of, records)))
        checkpoint.save(self.checkpoints, last, state, {"made_of": self._made_of}, self._keep)

    def _record(self, number: int, line: bytes) -> Record:
        remedy = "put the file back, or take another --workdir"
        try:
            record = json_files.loads(line)
            schema.check(record, _RECORD)
            if record["round"] != number:
                raise schema.Unfit(f"its round is {record['round']}")
        except (json_files.NotJson, schema.Unfit) as fault:
            raise UserError(f"{self.metrics_file}, line {number}: {fault}; {remedy}") from None
        return record


@contextlib.contextmanager
def held(path: Path | None, made_of: Callable[[], str]) -> Iterator[RoundsDirectory | None]:
    """The directory of a run, held; None where there is none."""
    if path is None:
        yield None
        return
    with RoundsDirectory(path, made_of()).held() as directory:
        yield directory
