"""Writers by name: the library's own, and those of one's own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynhp_jax.common import own_code
from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.common.own_code import Origin
from dynhp_jax.writers.tensorboard import TensorBoard
from dynhp_jax.writers.writer import Compiling, Record, Started

# name -> what makes it for the directory of a run
WRITERS: dict[str, Callable[[Path], Callable[[Record], Any]]] = {
    "tensorboard": lambda workdir: TensorBoard(workdir / "tensorboard"),
}


def named(names: tuple[str, ...], workdir: Path | None, origin: Origin) -> list[Any]:
    """The writers that a config names.

    Args:
      names: `config.records.writers`.
      workdir: of the run; None for a run without.
      origin: where the names were read.

    Raises:
      ConfigError: one that writes files, for a run without a directory.
      UserError: one needs a package that is not installed, or was read from a file.
      OwnCodeError: one of one's own cannot be made.
    """
    return [_named(name, workdir, origin) for name in names]


def _named(name: str, workdir: Path | None, origin: Origin) -> Any:
    if not own_code.is_own(name):
        if workdir is None:
            allowed = "module:object of your own for a run without a workdir; or give it one"
            raise ConfigError("records.writers", (name,), allowed)
        return WRITERS[name](workdir)
    remedy = "name it by --config.records.writers, or hand it to dp.fit(callbacks=...)"
    found = own_code.value(name, "writer", origin, remedy)
    if not callable(found):
        raise UserError(f"writer {name!r} cannot be called with a record; give it a __call__")
    return _Guarded(name, found)


@dataclasses.dataclass(frozen=True)
class _Guarded:
    """A writer of one's own, named in a config: what it raises becomes a line that names it."""

    name: str
    writer: Any

    def _call(self, method: str, *arguments: Any) -> None:
        if hasattr(self.writer, method):
            with own_code.guarded(f"writer {self.name!r}"):
                getattr(self.writer, method)(*arguments)

    def begin(self, started: Started) -> None:
        self._call("begin", started)

    def __call__(self, record: Record) -> None:
        self._call("__call__", record)

    def compiling(self, program: Compiling | None) -> None:
        self._call("compiling", program)

    def close(self) -> None:
        self._call("close")
