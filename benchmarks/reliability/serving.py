"""Runs the programs in a process that stays, so that hundreds of cases need not start JAX each.

    python -m benchmarks.reliability.serving

A line of JSON on stdin, {"program", "arguments", "folder"}, is one call from that folder; a line on
stdout is what came of it. A call that ends this process is answered by its starter.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("train", "evaluate", "sweep", "compare", "reproduce", "memory")
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a call ended: its exit code (None: it ended the process), and what it printed."""

    code: int | None
    out: str
    said: str

    @property
    def one_line(self) -> bool:
        """Whether it was refused by one line, after warnings at most."""
        lines = [line for line in self.said.splitlines() if not line.startswith("warning: ")]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


class Server:
    """Programs in a process of their own; started again where a call ended it."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def call(self, program: str, arguments: Sequence[str], folder: Path) -> Answer:
        """Calls a program from a folder."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.reliability.serving"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )  # fmt: skip
        asked = {"program": program, "arguments": list(arguments), "folder": str(folder)}
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, said = self._process.communicate()
            self._process = None
            return Answer(None, "", said)
        return Answer(**json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _called(program: str, arguments: Sequence[str], folder: str) -> Answer:
    from experiments import commandline

    main = importlib.import_module(f"experiments.{program}").main
    out, said = io.StringIO(), io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            code = commandline.run(main, [program, *arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            said.write(traceback.format_exc())
            code = 1
    return Answer(code, out.getvalue(), said.getvalue())


def main() -> None:
    """Answers calls until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")  # what libraries print stays off the answers' line
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(_called(**json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    main()
