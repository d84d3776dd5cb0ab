"""Two programs side by side: a process each, of which only one ever runs.

A side does a turn (an epoch) whenever it is asked for one, says how long it took, and is stopped
until it is asked again. Stopped is meant of the whole process: what a side does in threads of its
own, such as compiling ahead, would otherwise go on during the turn of the other, who would pay for
it. Needs POSIX signals. Imports nothing but the standard library: PyTorch's side has no jax.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Answer = dict[str, Any]


class Side:
    """A process that takes turns; stopped whenever it is not its turn.

    Args:
      command: the process; it calls `serve`.

    Attributes:
      ready: what it said when its preparations were done.
      pid, returncode: of the process; the latter once it is closed.

    Raises:
      SystemExit: here and in `turn`, if the process ends without an answer.
    """

    def __init__(self, command: Sequence[str]):
        # On a GPU jax would otherwise take most of the memory, which the sides have to share.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid, self.returncode = self._process.pid, None
        self.ready = self._answer()

    def turn(self) -> Answer:
        """Lets it run until it has answered."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Lets it run to its end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()
        self.returncode = self._process.wait()

    def _answer(self) -> Answer:
        for line in self._process.stdout:
            if line.startswith("{"):
                self._process.send_signal(signal.SIGSTOP)
                return json.loads(line)
            print(line, end="", file=sys.stderr)
        raise SystemExit(f"a side ended with code {self._process.wait()} before it had answered")


@contextmanager
def sides(commands: dict[str, Sequence[str]]) -> Iterator[dict[str, Side]]:
    """Starts them one after the other, and ends them whatever happens."""
    with ExitStack() as stack:
        started = {}
        for name, command in commands.items():
            started[name] = Side(command)
            stack.callback(started[name].close)
        yield started


def serve(ready: Answer, turn: Callable[[], Answer]) -> None:
    """The life of a side: says `ready`, then answers every line of its input with a turn."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """The command of a side that is a module here."""
    return [interpreter, "-m", module, *arguments]
