"""XLA's compiled programs on disk: where they are kept, and how a damaged entry heals.

JAX reads and writes the entries. Of one that it cannot read it only warns; it compiles the program
and, as there is a file of that name, keeps nothing, so that every later process would compile it
again. Here the damaged files go at that warning, which comes before JAX writes.
"""

import re
import threading
import warnings
import zlib
from pathlib import Path

import jax

from dynhp_jax.common import machine, paths
from dynhp_jax.common.cache_folder import default_folder
from dynhp_jax.common.errors import ConfigError

_OPTIONS = {  # keep everything: a small program is compiled as often as a large one
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
_WARNED = re.compile(
    r"Error (?P<doing>reading|writing) persistent compilation cache entry for '(?P<program>.*?)': "
    r"(?P<why>.*)",
    re.DOTALL,
)
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # JAX compresses by it where a package for it is installed


def use_cache(directory: str = "") -> None:
    """Lets XLA keep compiled programs from one process to the next.

    Entries that cannot be read are removed and written anew, which a warning says once; another
    says once what keeps programs from being written.

    Args:
      directory: where; '' for one in the cache directory (DYNHP_CACHE, else the user's), apart for
        every kind of processor, 'none' for nowhere.

    Raises:
      ConfigError: the directory that was asked for cannot be made.
      UserError: it can be no path.
    """
    if directory == "none":
        return
    path = _folder(directory)
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if directory:
            raise ConfigError(
                "compiling.cache_dir", directory, f"a directory that can be made ({error.strerror})"
            ) from error
        return  # nobody asked for it, and it only makes things faster
    for option, value in (_OPTIONS | {"jax_compilation_cache_dir": str(path)}).items():
        jax.config.update(option, value)
    before = warnings.showwarning
    before = before.before if isinstance(before, _Healing) else before
    warnings.showwarning = _Healing(path, before)


def _folder(directory: str) -> Path | None:
    """None where nobody asked for one, and there is no home for it."""
    if directory:
        return paths.given(directory, "config.compiling.cache_dir")
    default = default_folder()
    return default and default / "xla" / machine.processor()


class _Healing:
    """Shows warnings as before, but acts on JAX's warnings of the cache."""

    def __init__(self, folder: Path, before):
        self.folder, self.before = folder, before
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, message, category, *place, **options) -> None:
        found = _WARNED.match(str(message))
        if found is None:
            self.before(message, category, *place, **options)
        elif found["doing"] == "writing":
            self._say(
                "kept", f"compiled programs cannot be kept in {self.folder} ({found['why']}); each"
                " run compiles them anew until there is room and the folder can be written"
            )  # fmt: skip
        else:
            self._heal(found["program"], found["why"])

    def _heal(self, program: str, why: str) -> None:
        with self._lock:
            entries = [*self.folder.glob("*-cache")]
            damaged = [entry for entry in entries if not _whole(entry)]
            # A file that is whole holds no program of this JAX: which one is not said.
            damaged = damaged or [e for e in entries if e.name.startswith(f"{program}-")]
            try:
                for entry in damaged:
                    entry.unlink(missing_ok=True)
            except OSError as error:
                why = f"{why.strip()}, and {error.strerror} to remove it"
                self._say(
                    "read", f"the kept program {program!r} in {self.folder} cannot be read ({why});"
                    " each run compiles it anew until that folder is removed"
                )  # fmt: skip
                return
        self._say(
            "read", f"kept programs in {self.folder} were damaged, {len(damaged)} of"
            f" {len(entries)}; they are compiled and kept anew"
        )  # fmt: skip

    def _say(self, kind: str, line: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.before(UserWarning(line), UserWarning, __file__, 0)


def _whole(entry: Path) -> bool:
    """Whether a file is what was once written: zlib's checksum is at its end."""
    try:
        content = entry.read_bytes()
        if content[:4] != _ZSTANDARD:
            zlib.decompress(content)
    except (OSError, zlib.error):
        return False
    return True
