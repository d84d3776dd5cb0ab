"""Trials: a compiled program is run on zeros, in a process of its own, and its memory is read.

What a program takes beside its arguments is by how much it raises the resident set of an idle
process (Linux), at its highest of several runs. The figure is rounded up to one of a few sizes, so
that two trials of a program mostly agree, and kept beside the compiled programs, under a
fingerprint of the program, the cores and the versions: a program is tried once, and every later run
counts the same bytes, bit for bit.
"""

import atexit
import functools
import hashlib
import json
import math
import os
import pickle
import re
import select
import subprocess
import sys
import threading
import uuid
import warnings
import weakref
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable

from dynhp_jax import machine, trial_process

LIMIT_S = 600.0  # a trial that takes longer hangs, or the machine swaps
SHARE = 1 / 4  # of the machine's memory: what takes more is not tried
UNCACHED = "xla_disable_hlo_passes"  # of a name that no pass has: only the key in the cache changes
SIZES = 8  # that figures are rounded to, from one power of 2 to the next
SETTINGS = {  # the process computes on the CPU only, and its allocator gives back what is freed
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

_lowered: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def keep(compiled: jax.stages.Compiled, lowered: jax.stages.Lowered) -> None:
    """Notes what a program was compiled from, until it is known what it takes.

    A program that JAX has read from its cache can be tried only if it is compiled once more.
    """
    _lowered[compiled] = lowered


def drop(compiled: jax.stages.Compiled) -> None:
    """Lets go of what a program was compiled from."""
    _lowered.pop(compiled, None)


def rise(compiled: jax.stages.Compiled, text: str) -> int | None:
    """Bytes by which a run of a program raises the resident set, beside its arguments.

    Args:
      compiled: the program, for one device.
      text: of the program, as `compiled.as_text()` gives it.

    Returns:
      The bytes, rounded up by at most a tenth; None where they cannot be measured: the system
      is not Linux, the program takes too large a share of the machine's memory, or the trial fails.
    """
    if not trial_process.measures() or _bytes(compiled) > SHARE * machine.memory_bytes():
        return None
    name = _fingerprint(text)
    with _lock():
        found = _remembered().get(name) or _read(name)
        if found is None:
            found = _tried(compiled, _lowered.get(compiled))
            if found is not None:
                _write(name, found)
        if found is not None:
            _remembered()[name] = found
    return found


def rounded(size: int) -> int:
    """A size rounded up by at most a tenth, one of SIZES from a power of 2 to the next.

    >>> rounded(1000), rounded(1024), rounded(1025)
    (1024, 1024, 1117)
    """
    below = 2 ** max(0, size.bit_length() - 1)
    sizes = (math.ceil(below * 2 ** (place / SIZES)) for place in range(SIZES))
    return next((found for found in sizes if found >= size), 2 * below)


def _bytes(compiled: jax.stages.Compiled) -> int:
    """What XLA allocates to run it."""
    found = compiled.memory_analysis()
    own = found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    return found.argument_size_in_bytes + own


def _fingerprint(text: str) -> str:
    """Names a program on this machine, without the lines of the source that it comes from."""
    plain = re.sub(r", metadata=\{[^}]*\}", "", text)
    cores = sorted(os.sched_getaffinity(0))
    made = json.dumps(
        [trial_process.METHOD, jaxlib.__version__, len(cores), machine.memory_bytes(), plain]
    )
    return hashlib.sha256(made.encode()).hexdigest()


# -- what is known ---------------------------------------------------------------------------------


@functools.cache
def _lock() -> threading.Lock:
    return threading.Lock()


@functools.cache
def _remembered() -> dict[str, int]:
    return {}


def _path(name: str) -> Path | None:
    folder = jax.config.jax_compilation_cache_dir
    return Path(folder) / "trials" / f"{name}.json" if folder else None


def _read(name: str) -> int | None:
    """What an earlier process found; None if there is nothing, or nothing that can be read."""
    path = _path(name)
    try:
        found = json.loads(path.read_text())["bytes"] if path else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


def _write(name: str, found: int) -> None:
    """Keeps it for later processes, whole or not at all."""
    path = _path(name)
    if path is None:
        return
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"bytes": found}))
        part.replace(path)
    except OSError as error:
        warnings.warn(
            f"what a program takes is not kept in {path.parent} ({error.strerror or error}) and is"
            " measured again next time",
            stacklevel=2,
        )


# -- the process -----------------------------------------------------------------------------------


def _tried(compiled: jax.stages.Compiled, lowered: jax.stages.Lowered | None) -> int | None:
    """Has the process run a program; None, said once, if it cannot."""
    try:
        try:
            return rounded(_asked(compiled))
        except Unanswered:
            # A program that JAX has read from its cache cannot be handed on (jaxlib 0.10).
            if lowered is None:
                raise
            return rounded(_asked(lowered.compile({UNCACHED: uuid.uuid4().hex})))
    except Exception as error:  # whatever it is, there is a bound that is safe
        reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        warnings.warn(
            f"a program could not be tried out ({reason}): as the memory of the CPU's libraries an"
            " upper bound is counted",
            stacklevel=2,
        )
        return None


class Unanswered(RuntimeError):
    """The process could not run a program."""


def _asked(compiled: jax.stages.Compiled) -> int:
    """What the process says of a program."""
    program, inputs, outputs = serialize_executable.serialize(compiled)
    question = pickle.dumps((program, inputs.num_leaves, outputs.num_leaves))
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
        raise Unanswered(f"its process ended with {process.wait()}") from None
    if isinstance(found, str):
        raise Unanswered(found)
    return found


def _process(anew: bool = False) -> subprocess.Popen:
    """The process in which programs are tried; it ends when nothing comes for a while."""
    held = _held()
    if anew or not held or held[0].poll() is not None:
        _end()
        root = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        held[:] = [
            subprocess.Popen(
                [sys.executable, "-m", "dynhp_jax.trial_process"],
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
