"""Compiled programs as something that is counted: ahead of time, once per static shape.

Pruning changes shapes and every new shape costs a compilation, which is longer than an epoch of a
small network. Three things bound the number of them by the logarithm of how much is pruned and of
how far the batch grows, whatever the number of epochs: units that are pruned are masked at once,
but arrays become smaller only when a good share of the parameters is gone (`shape_plans`); batch
sizes lie on a coarse grid; and the number of steps of an epoch is traced, never static. `Programs`
holds what is compiled, counts and times it, and compiles what will be needed while training goes
on.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax

from dynhp_jax.memory import fusion
from dynhp_jax.memory.fusion import Measured
from dynhp_jax.memory.trial_records import Records
from dynhp_jax.writers.writer import Compiling


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One program: what it is for and how long tracing, compiling and trying it took."""

    name: str
    key: Hashable
    seconds: float


class Programs:
    """Executables by (name, key); compiled when they are first asked for. Safe for threads.

    Args:
      compilations: how many an earlier, interrupted process made; counted on from there.
      seconds: how long those took.
      waited: for how long of that training stood still.
      known: what its checkpoint says of programs, as `records` has it.
      tell: is told of every program that is being compiled, by the thread that compiles it, and
        None when there is none any more.

    Attributes:
      compilations, seconds, waited: as given, and what came to them.
      log: of the compilations of this process.
      records: what is known of programs that were measured.

    >>> programs = Programs()
    >>> number = jax.ShapeDtypeStruct((), "float32")
    >>> for _ in range(3):
    ...     twice = programs.get("twice", (), lambda: jax.jit(lambda x: x + x), number)
    >>> programs.compilations
    1
    """

    def __init__(
        self,
        compilations: int = 0,
        seconds: float = 0.0,
        waited: float = 0.0,
        known: Mapping[str, Any] = MappingProxyType({}),
        tell: Callable[[Compiling | None], None] | None = None,
    ):
        self.records = Records(known)
        self.compilations = compilations
        self.seconds = seconds
        self.waited = waited
        self.log: list[Compilation] = []
        self._programs: dict[tuple[str, Hashable], concurrent.futures.Future] = {}
        self._lock = threading.Lock()
        self._worker: concurrent.futures.ThreadPoolExecutor | None = None
        self._here = threading.local()
        self._progress = _Progress(tell)

    def expect(self, names: Iterable[str]) -> None:
        """Says which programs `get` is going to be asked for, at least."""
        self._progress.expect(names)

    def get(
        self,
        name: str,
        key: Hashable,
        make: Callable,
        *arguments: Any,
        measured: Measured = Measured.NOT,
    ) -> jax.stages.Compiled:
        """The executable of a function for arguments of these shapes.

        Args:
          name: what the program is for; shown in reports.
          key: everything static that tells this program from others of the name: spec, batch.
          make: called on a miss only; returns the function, as `jax.jit` gives it.
          *arguments: arrays or jax.ShapeDtypeStructs; only shapes and types are looked at, and how
            they are spread over devices.
          measured: how much has to be known of it; the same for all of a name and key.
        """
        with self._lock:
            program = self._programs.get((name, key))
            if missing := program is None:
                program = self._programs[name, key] = concurrent.futures.Future()
        if not missing:
            self._progress.there(name)
        if program.done():
            return program.result()
        start = time.perf_counter()
        try:
            if missing:
                with self._progress.of(name, self._in_background):
                    self._compile(program, name, key, make, arguments, measured)
            return program.result()
        finally:
            if not self._in_background:
                self.waited += time.perf_counter() - start

    def _compile(
        self, program, name: str, key: Hashable, make: Callable, arguments, measured: Measured
    ) -> None:
        start = time.perf_counter()
        try:
            lowered = make().lower(*jax.tree.map(_shape, arguments))
            compiled = fusion.compile(lowered, self.records, measured)
        except BaseException as error:
            with self._lock:
                del self._programs[name, key]
            program.set_exception(error)
            raise
        seconds = time.perf_counter() - start
        with self._lock:
            self.compilations += 1
            self.seconds += seconds
            self.log.append(Compilation(name, key, seconds))
        program.set_result(compiled)

    def ahead(self, work: Callable[[], Any]) -> concurrent.futures.Future:
        """Does work that compiles programs, while the caller goes on; one piece after the other.

        Args:
          work: calls `get`; what it returns is the result of the future.
        """
        if self._worker is None:
            self._worker = concurrent.futures.ThreadPoolExecutor(1, "compiling")
        wide = jax.config.jax_enable_x64  # a context manager sets it for its own thread only

        def in_background() -> Any:
            self._here.background = True
            with jax.enable_x64(wide):
                return work()

        return self._worker.submit(in_background)

    def join(self, work: concurrent.futures.Future) -> Any:
        """The result of work done `ahead`; the time until it is there counts as waited."""
        start = time.perf_counter()
        try:
            return work.result()
        finally:
            self.waited += time.perf_counter() - start

    @property
    def _in_background(self) -> bool:
        return getattr(self._here, "background", False)

    def drop(self, spec: Hashable) -> None:
        """Lets go of the executables whose key is or starts with a spec (the counts stay)."""
        with self._lock:
            for name, key in list(self._programs):
                if key == spec or (isinstance(key, tuple) and key[:1] == (spec,)):
                    del self._programs[name, key]

    def __len__(self) -> int:
        return len(self._programs)


class _Progress:
    """How far compiling has come: programs that were asked for, of those that are expected."""

    def __init__(self, tell: Callable[[Compiling | None], None] | None):
        self._tell, self._lock = tell, threading.Lock()
        self._expected: collections.Counter[str] = collections.Counter()
        self._begun = self._running = 0

    def expect(self, names: Iterable[str]) -> None:
        with self._lock:
            self._expected.update(names)

    def there(self, name: str) -> None:
        """A program need not be compiled."""
        with self._lock:
            self._expected -= collections.Counter([name])

    @contextlib.contextmanager
    def of(self, name: str, ahead: bool) -> Iterator[None]:
        """While a program is being compiled."""
        with self._lock:
            self._expected -= collections.Counter([name])
            self._begun, self._running = self._begun + 1, self._running + 1
            number, total = self._begun, self._begun + self._expected.total()
        if self._tell:
            self._tell(Compiling(name, number, total, ahead))
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                last = not self._running
                if last and not self._expected.total():
                    self._begun = 0
            if last and self._tell:
                self._tell(None)


def _shape(leaf: Any) -> Any:
    """An array's shape and type, without its values and the device that it is on.

    A restored array is bound to its device, a new one is not: the cache on disk would hold a
    program for each. What is on one device is taken to be on the default one.
    """
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) > 1:
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=jax.typeof(leaf).weak_type)
