"""Calls of the six programs, in forks of this process that has imported them already.

The process that calls never computes anything by JAX: its threads would not survive the fork.
"""

import dataclasses
import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from experiments import commandline

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("train", "evaluate", "sweep", "compare", "reproduce", "memory")
_MAINS = {name: importlib.import_module(f"experiments.{name}").main for name in PROGRAMS}
_PATIENCE = 600.0  # seconds until a call counts as hanging
_CALLS = 100  # of one process; what programs leave in it adds up
_FORK = multiprocessing.get_context("fork")


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a call ended.

    Attributes:
      code: its exit code; None where it hung and was ended, or ended its process.
      out: what it printed.
      said: what it printed to stderr.
    """

    code: int | None
    out: str
    said: str

    @property
    def traced(self) -> bool:
        """Whether it ended as a bug does."""
        return self.code is None or "Traceback" in self.said

    @property
    def one_line(self) -> bool:
        """Whether it was refused by one line, after warnings at most."""
        lines = [line for line in self.said.splitlines() if not line.startswith("warning: ")]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


class Caller:
    """A process that calls programs one after another, so that they are imported and traced once.

    Another one takes its place where it hangs, ends, or has done many calls.

    Args:
      prepare: called first in every process: changes of the environment, limits.
    """

    def __init__(self, prepare: Callable[[], Any] = lambda: None):
        self._prepare, self._process = prepare, None
        self._scratch = tempfile.TemporaryDirectory()
        self._files = [Path(self._scratch.name, name) for name in ("out", "said")]

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *details: object) -> None:
        self._end()
        self._scratch.cleanup()

    def call(self, program: str, arguments: Sequence[str], folder: Path) -> Answer:
        """Calls a program.

        Args:
          program: one of PROGRAMS.
          arguments: its flags.
          folder: from where it is called; modules that lie there can be imported.
        """
        if self._process is None or self._calls == _CALLS:
            self._end()
            self._begin()
        self._calls += 1
        code = None
        try:
            self._connection.send((program, list(arguments), folder))
            if self._connection.poll(_PATIENCE):
                code = self._connection.recv()
        except (EOFError, OSError):
            pass  # the program ended its process
        if code is None:
            self._end()
        return Answer(code, *(file.read_text(errors="replace") for file in self._files))

    def _begin(self) -> None:
        for file in self._files:
            file.write_bytes(b"")
        self._calls = 0
        self._connection, far = _FORK.Pipe()
        served = (far, self._connection, self._prepare, self._files)
        self._process = _FORK.Process(target=_serve, args=served, daemon=True)
        self._process.start()
        far.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def call(
    program: str,
    arguments: Sequence[str],
    folder: Path,
    prepare: Callable[[], Any] = lambda: None,
) -> Answer:
    """Calls a program in a process of its own; see `Caller`."""
    with Caller(prepare) as caller:
        return caller.call(program, arguments, folder)


def _serve(connection: Any, near: Any, prepare: Callable, files: Sequence[Path]) -> None:
    """The life of the new process."""
    near.close()  # so that it ends with the process that calls
    _write_to(files)
    prepare()
    while True:
        try:
            program, arguments, folder = connection.recv()
        except EOFError:
            return
        _write_to(files)
        os.chdir(folder)
        connection.send(_called(program, arguments))


def _write_to(files: Sequence[Path]) -> None:
    """Whatever the process prints goes there from now on."""
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _called(program: str, arguments: Sequence[str]) -> int:
    """The exit code of a program."""
    code = 1
    try:
        code = commandline.run(_MAINS[program], [program, *arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code
