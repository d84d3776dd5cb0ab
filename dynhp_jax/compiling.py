"""Compiled programs as something that is counted: ahead of time, once per static shape.

Pruning changes shapes and every new shape costs a compilation, which is longer than an epoch of a
small network. Three things bound the number of them by the logarithm of how much is pruned and of
how far the batch grows, whatever the number of epochs: units that are pruned are masked at once,
but arrays become smaller only when a good share of the parameters is gone (`worth_resizing`); batch
sizes lie on a coarse grid; and the number of steps of an epoch is traced, never static. `Programs`
holds what is compiled, counts and times it.
"""

import dataclasses
import platform
import time
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path

import jax

from dynhp_jax.data.cached import default_folder
from dynhp_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One compilation: what it was for and how long tracing and compiling took."""

    name: str
    key: Hashable
    seconds: float


class Programs:
    """Executables by (name, key); compiled when they are first asked for.

    Args:
      compilations: how many an earlier, interrupted process made; counted on from there.
      seconds: how long those took.

    >>> programs = Programs()
    >>> number = jax.ShapeDtypeStruct((), "float32")
    >>> for _ in range(3):
    ...     twice = programs.get("twice", (), lambda: jax.jit(lambda x: x + x), number)
    >>> programs.compilations
    1
    """

    def __init__(self, compilations: int = 0, seconds: float = 0.0):
        self.compilations = compilations
        self.seconds = seconds
        self.log: list[Compilation] = []
        self._programs: dict[tuple[str, Hashable], jax.stages.Compiled] = {}

    def get(self, name: str, key: Hashable, make: Callable, *arguments) -> jax.stages.Compiled:
        """The executable of a function for arguments of these shapes.

        Args:
          name: what the program is for; shown in reports.
          key: everything static that tells this program from others of the name: spec, batch.
          make: called on a miss only; returns the function, as `jax.jit` gives it.
          *arguments: arrays or jax.ShapeDtypeStructs; only shapes and types are looked at.
        """
        if (name, key) not in self._programs:
            start = time.perf_counter()
            self._programs[name, key] = make().lower(*arguments).compile()
            seconds = time.perf_counter() - start
            self.compilations += 1
            self.seconds += seconds
            self.log.append(Compilation(name, key, seconds))
        return self._programs[name, key]

    def clear(self) -> None:
        """Lets go of every executable (the counts stay): after a resize none of them fits."""
        self._programs.clear()

    def __len__(self) -> int:
        return len(self._programs)


def worth_resizing(surviving: int, materialised: int, shrink: float) -> bool:
    """Whether so many parameters are masked that smaller arrays are worth a compilation.

    Args:
      surviving: parameters of the units that are left.
      materialised: parameters that the arrays hold.
      shrink: the share that has to be gone; with 0, any that is gone is worth it.

    >>> worth_resizing(86, 100, 0.15), worth_resizing(85, 100, 0.15), worth_resizing(9, 9, 0.0)
    (False, True, False)
    """
    return surviving < materialised and surviving <= (1 - shrink) * materialised


CACHE_OPTIONS = {
    "jax_compilation_cache_dir": None,  # the directory
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


def use_cache(directory: str = "") -> None:
    """Lets XLA keep compiled programs from one process to the next.

    Args:
      directory: where; '' for one in the cache directory (DYNHP_CACHE, else the user's), apart for
        every kind of processor, 'none' for nowhere.

    Raises:
      ConfigError: the directory that was asked for cannot be made.
    """
    if directory == "none":
        return
    path = directory or str(default_folder() / "xla" / _processor())
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if directory:
            raise ConfigError(
                "compiling.cache_dir", directory, f"a directory that can be made ({error.strerror})"
            ) from error
        return  # nobody asked for it, and it only makes things faster
    for option, value in (CACHE_OPTIONS | {"jax_compilation_cache_dir": path}).items():
        jax.config.update(option, value)


def _processor() -> str:
    """Names the instructions that this machine has: a program compiled for others may crash."""
    known = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        known += next((line for line in info.read_text().splitlines() if "flags" in line), "")
    return f"{platform.machine()}-{zlib.crc32(known.encode()):08x}"
