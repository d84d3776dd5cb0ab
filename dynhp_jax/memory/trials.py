"""Trials: a compiled program is run on zeros, in a process of its own, and what it takes is read.

What a program takes beside its arguments is by how much it raises the resident set of an idle
process (Linux), at its highest of several runs. The figure is rounded up to one of a few sizes, so
that two trials of a program mostly agree. Its time is in processor seconds, of the fastest run:
they depend least on what else the machine does. What was found is kept by `trial_records`.
"""

import atexit
import dataclasses
import functools
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental import serialize_executable

from dynhp_jax.common import machine
from dynhp_jax.memory import trial_process

LIMIT_S = 600.0  # a trial that takes longer hangs, or the machine swaps
SHARE = 1 / 4  # of the machine's memory: what takes more is not tried
SIZES = 8  # that figures are rounded to, from one power of 2 to the next
SETTINGS = {  # the process computes on the CPU only, and its allocator gives back what is freed
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one run of a program takes.

    Attributes:
      bytes: by which it raises the resident set beside its arguments, rounded up.
      seconds: of the processor.
    """

    bytes: int
    seconds: float


def tried(
    compiled: jax.stages.Compiled,
    again: Callable[[], jax.stages.Compiled] | None = None,
    limit_s: float = 0.0,
) -> Trial | None:
    """Runs a program.

    Args:
      compiled: the program, for one device.
      again: compiles it once more; a program that JAX has read from its cache cannot be handed on
        to the process (jaxlib 0.10).
      limit_s: processor seconds that one run may take; 0 for any.

    Returns:
      What it takes; None where that is not known: the system is not Linux, the program takes too
      large a share of the machine's memory or longer than the limit, or the trial fails, which a
      warning says.
    """
    if not trial_process.measures() or _all_bytes(compiled) > SHARE * machine.memory_bytes():
        return None
    try:
        with _lock():
            try:
                size, seconds = _asked(compiled, limit_s)
            except Unanswered:
                if again is None:
                    raise
                size, seconds = _asked(again(), limit_s)
    except TooSlow:
        return None
    except Exception as error:  # whatever it is, there is a bound that is safe
        reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        warnings.warn(
            f"a program could not be tried out ({reason}): as the memory of the CPU's libraries an"
            " upper bound is counted",
            stacklevel=2,
        )
        return None
    return Trial(rounded(max(1, size)), seconds)


def rounded(size: int) -> int:
    """A size rounded up by at most a tenth, one of SIZES from a power of 2 to the next.

    >>> rounded(1000), rounded(1024), rounded(1025)
    (1024, 1024, 1117)
    """
    below = 2 ** max(0, size.bit_length() - 1)
    sizes = (math.ceil(below * 2 ** (place / SIZES)) for place in range(SIZES))
    return next((found for found in sizes if found >= size), 2 * below)


def own_bytes(compiled: jax.stages.Compiled) -> int:
    """What XLA allocates to run a program, beside its arguments."""
    found = compiled.memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def _all_bytes(compiled: jax.stages.Compiled) -> int:
    return compiled.memory_analysis().argument_size_in_bytes + own_bytes(compiled)


# -- the process -----------------------------------------------------------------------------------


class Unanswered(RuntimeError):
    """The process could not run a program."""


class TooSlow(RuntimeError):
    """A program did not end within its limit."""


def _asked(compiled: jax.stages.Compiled, limit_s: float) -> tuple[int, float]:
    """What the process says of a program."""
    program, inputs, outputs = serialize_executable.serialize(compiled)
    question = pickle.dumps((program, inputs.num_leaves, outputs.num_leaves, limit_s))
    process = _process()
    try:
        process.stdin.write(question)
        process.stdin.flush()
    except BrokenPipeError:  # it has ended in this moment, since nothing came for so long
        process = _process(anew=True)
        process.stdin.write(question)
        process.stdin.flush()
    if not select.select([process.stdout], [], [], LIMIT_S)[0]:
        process.kill()
        raise TimeoutError(f"no result after {LIMIT_S:.0f} s")
    try:
        found = pickle.load(process.stdout)
    except EOFError:
        status = process.wait()
        if status == -signal.SIGPROF:
            raise TooSlow from None
        raise Unanswered(f"its process ended with {status}") from None
    if isinstance(found, str):
        raise Unanswered(found)
    return found


def _process(anew: bool = False) -> subprocess.Popen:
    """The process in which programs are tried; it ends when nothing comes for a while."""
    held = _held()
    if anew or not held or held[0].poll() is not None:
        _end()
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        held[:] = [
            subprocess.Popen(
                [sys.executable, "-m", "dynhp_jax.memory.trial_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | SETTINGS | {"PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is the parent's: this process ends with its pipe
            )
        ]
        atexit.unregister(_end)
        atexit.register(_end)
    return held[0]


def _end() -> None:
    """Ends the process, if there is one."""
    for process in _held():
        process.kill()
        process.communicate()
    _held().clear()


@functools.cache
def _held() -> list[subprocess.Popen]:
    return []


@functools.cache
def _lock() -> threading.Lock:
    return threading.Lock()
