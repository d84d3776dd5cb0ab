"""The process in which `trials` runs programs: reads them from a pipe, writes what each took.

Nothing else happens in it, so what the resident set rises by is the program's.
"""

import gc
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
IDLE_S = 20.0  # then the process ends: while training goes on it is in nobody's way
METHOD = 5  # of measuring, by what follows: figures of another one are no figures of this one
RUNS, AT_LEAST = 6, 2  # threads meet in another order each time, so the most of several counts
PAUSE_S, PATIENCE = 0.1, 50  # between two looks at memory that is given back, and how many
WORK_S = 4.0  # processor seconds, after which a program has run often enough


def measures() -> bool:
    """Whether the system says how much memory a process has held since a moment (Linux)."""
    return RESET.exists()


def resident(name: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most since the last reset) of this process."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{STATUS} has no {name}")


def added(call: Callable[[], Any]) -> int:
    """Bytes that a call adds to the resident set, at its highest."""
    gc.collect()
    before, most, _ = _measured(call, 0.0)
    return most - before


def took(program: bytes, inputs: int, outputs: int, limit_s: float) -> tuple[int, float]:
    """Runs a program on zeros, and says by how much that raises the resident set, and how long.

    Args:
      program: as `jax.experimental.serialize_executable` has it.
      inputs: how many arrays it takes.
      outputs: how many it returns.
      limit_s: processor seconds of one run, after which this process ends; 0 for no limit.

    Returns:
      (the most bytes, the least processor seconds) of several runs.
    """
    trees = (jax.tree.structure(((0,) * inputs, {})), jax.tree.structure((0,) * outputs))
    compiled = serialize_executable.deserialize_and_load(program, *trees)
    gc.collect()
    infos = compiled.args_info[0]
    arguments = [_made(info) for info in infos]

    def make_again() -> None:
        for place, info in enumerate(infos):
            if arguments[place].is_deleted():  # a run consumes what it is donated
                arguments[place] = _made(info)
        jax.block_until_ready(arguments)

    def run() -> tuple[int, int, float]:
        make_again()
        return _measured(lambda: compiled(*arguments), limit_s)

    run()  # loads code and starts threads, which stay: no later run adds them again
    found, start = [], time.process_time()
    while len(found) < AT_LEAST or (len(found) < RUNS and time.process_time() - start < WORK_S):
        found.append(run())
    idle, most, seconds = zip(*found, strict=True)
    make_again()
    # The same arguments are there before each run: what more there is has not been given back yet.
    return max(most) - min(*idle, _settled()), min(seconds)


def _measured(call: Callable[[], Any], limit_s: float) -> tuple[int, int, float]:
    """Resident bytes before a call and, at their highest, in it; its processor seconds."""
    before = _settled()
    RESET.write_text("5")  # VmHWM starts again from here
    # The signal ends the process wherever it is: a program that runs cannot be interrupted.
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    start = time.process_time()
    jax.block_until_ready(call())
    seconds = time.process_time() - start
    signal.setitimer(signal.ITIMER_PROF, 0)
    return before, resident("VmHWM"), seconds


def _settled() -> int:
    """Resident bytes once they fall no more: a thread gives buffers back when its turn comes."""
    found = resident("VmRSS")
    for _ in range(PATIENCE):
        time.sleep(PAUSE_S)
        now = resident("VmRSS")
        if now >= found:
            break
        found = now
    return found


def _made(info: jax.stages.ArgInfo) -> jax.Array:
    """An argument whose pages are there: zeros; 1 for a whole number, as of steps to take."""
    if jnp.issubdtype(info.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), info.shape)
    if not info.shape and jnp.issubdtype(info.dtype, jnp.integer):
        return jnp.ones((), info.dtype)
    return jnp.zeros(info.shape, info.dtype)


def main() -> None:
    """Answers until the pipe is closed, or nothing comes for a while."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    while select.select([sys.stdin], [], [], IDLE_S)[0]:
        try:
            program = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = took(*program)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
