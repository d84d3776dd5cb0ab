"""What trials found of programs, kept so that a program is tried once.

A record is kept beside the compiled programs on disk, under a fingerprint of the program, the
processor, the cores and the versions, and in the checkpoints of the run that it decided something
in: every later run, and a run that goes on without that cache, counts the same bytes, bit for bit,
and runs the same programs.
"""

import dataclasses
import functools
import hashlib
import json
import os
import uuid
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jaxlib

from dynhp_jax.common import json_files, machine, schema
from dynhp_jax.memory import trial_process
from dynhp_jax.memory.trials import Trial

_TRIAL = schema.optional(schema.fields({"bytes": schema.POSITIVE, "seconds": schema.NOT_NEGATIVE}))
KIND = schema.fields({"fusion": schema.BOOLEAN, "fused": _TRIAL, "unfused": _TRIAL})
SEVERAL = schema.mapping_of(KIND)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of one program, which may be compiled in two ways.

    Attributes:
      fusion: whether the one that runs has chains of operations fused into calls of a library.
      fused, unfused: what either takes; None where it was not tried or that did not succeed.
    """

    fusion: bool = True
    fused: Trial | None = None
    unfused: Trial | None = None

    @property
    def trial(self) -> Trial | None:
        """Of the one that runs."""
        return self.fused if self.fusion else self.unfused

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Record":
        """The inverse of `to_dict`.

        Raises:
          schema.Unfit: the values are of no record.
        """
        schema.check(values, KIND)
        fused, unfused = (
            values[name] and Trial(values[name]["bytes"], values[name]["seconds"])
            for name in ("fused", "unfused")
        )
        return cls(values["fusion"], fused, unfused)


class Records:
    """Records by fingerprint, of the programs of a run.

    Args:
      known: from the run's checkpoint, as `to_dict` gave it.
    """

    def __init__(self, known: Mapping[str, Any] = MappingProxyType({})):
        self._records = {name: Record.from_dict(each) for name, each in known.items()}

    def __bool__(self) -> bool:
        return bool(self._records)

    def get(self, name: str) -> Record | None:
        """What is known of a program: by the run, this process, or earlier ones."""
        return self._records.get(name) or _in_process().get(name) or _read(name)

    def keep(self, name: str, record: Record) -> None:
        """Keeps what is known of a program of the run."""
        self._records[name] = record
        _in_process()[name] = record
        if record.trial is not None and _read(name) is None:
            _write(name, record)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds them, in the order of their names."""
        return {name: self._records[name].to_dict() for name in sorted(self._records)}


def fingerprint(text: str, *further: str) -> str:
    """Names a program on this machine.

    Args:
      text: of the program; where the lines of source stand in it that it comes from is left out.
      *further: what else tells it from others.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = os.environ.get("XLA_FLAGS", "")
    made = [trial_process.METHOD, jaxlib.__version__, machine.processor(), cores, flags, *further]
    return hashlib.sha256(json.dumps([*made, text]).encode()).hexdigest()


def attach(compiled: jax.stages.Compiled, record: Record) -> None:
    """Notes what is known of a compiled program, for who has it in hand."""
    _attached()[compiled] = record


def attached(compiled: jax.stages.Compiled) -> Record | None:
    """What was noted of a compiled program."""
    return _attached().get(compiled)


@functools.cache
def _attached() -> weakref.WeakKeyDictionary:
    return weakref.WeakKeyDictionary()


@functools.cache
def _in_process() -> dict[str, Record]:
    return {}


def _path(name: str) -> Path | None:
    folder = jax.config.jax_compilation_cache_dir
    return Path(folder) / "trials" / f"{name}.json" if folder else None


def _read(name: str) -> Record | None:
    """What an earlier process found; None if there is nothing, or nothing that can be read."""
    path = _path(name)
    try:
        return path and Record.from_dict(json_files.loads(path.read_bytes()))
    except (OSError, json_files.NotJson, schema.Unfit):
        return None


def _write(name: str, record: Record) -> None:
    """Keeps it for later processes, whole or not at all."""
    path = _path(name)
    if path is None:
        return
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record.to_dict()))
        part.replace(path)
    except OSError as error:
        warnings.warn(
            f"what a program takes is not kept in {path.parent} ({error.strerror or error}) and is"
            " measured again next time",
            stacklevel=2,
        )
