"""Calls of the six programs, each in a fork of this process that has imported them already.

The process that calls never computes anything by JAX: its threads would not survive the fork.
"""

import dataclasses
import importlib
import os
import signal
import tempfile
import time
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


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a call ended.

    Attributes:
      code: its exit code; negative for a signal, None where it hung and was ended.
      out: what it printed.
      said: what it printed to stderr.
    """

    code: int | None
    out: str
    said: str

    @property
    def traced(self) -> bool:
        """Whether it ended as a bug does."""
        return self.code is None or self.code < 0 or "Traceback" in self.said

    @property
    def one_line(self) -> bool:
        """Whether it was refused by one line, after warnings at most."""
        lines = [line for line in self.said.splitlines() if not line.startswith("warning: ")]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def call(
    program: str,
    arguments: Sequence[str],
    folder: Path,
    prepare: Callable[[], Any] = lambda: None,
) -> Answer:
    """Calls a program from a folder.

    Args:
      program: one of PROGRAMS.
      arguments: its flags.
      folder: from where it is called; modules that lie there can be imported.
      prepare: called first, in the new process: changes of the environment, limits.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, name) for name in ("out", "said")]
        process = os.fork()
        if not process:
            _be(program, arguments, folder, prepare, files)
        code = _ended(process)
        out, said = (file.read_text(errors="replace") for file in files)
    return Answer(code, out, said)


def _be(program: str, arguments: Sequence[str], folder: Path, prepare: Callable, files: list):
    """What the new process does; it never returns."""
    code = 1
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
        os.chdir(folder)
        prepare()
        code = commandline.run(_MAINS[program], [program, *arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)


def _ended(process: int) -> int | None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None
