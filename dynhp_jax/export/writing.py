"""Writes a finished network in several formats, runs what was written, and compares."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.export.formats import registry
from dynhp_jax.export.formats.format import Format, Source, Unrunnable, outputs_of
from dynhp_jax.export.network import Finished


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """A network in one format.

    Attributes:
      format: its name.
      files: the first one is the network.
      bytes: of the network, as it is stored: the file, or of C the code and constants.
      difference: the largest one from the network's outputs, by the largest of these; None where
        it was not run.
      outputs: of what was written, for the inputs; None where it was not run.
      ram: bytes of C's buffers and stack for one example; None for other formats.
      why: it was not run, in words; ''.
    """

    format: str
    files: tuple[Path, ...]
    bytes: int
    difference: float | None = None
    outputs: Any = None
    ram: int | None = None
    why: str = ""


def write(
    network: Finished,
    folder: str | os.PathLike,
    formats: str = "npz",
    *,
    inputs: Any,
    calibration: Any = None,
    name: str = "network",
) -> list[Written]:
    """Writes a network; what was written is run on inputs and has to give the network's outputs.

    Args:
      network: from `load` or `finish`.
      folder: of the files; made if missing. Files of the same names are replaced.
      formats: names of `formats.registry.FORMATS`, separated by commas.
      inputs: whole examples [examples, ...], a pytree as the network takes it.
      calibration: examples to choose the ranges of integers by; None for the inputs.
      name: of the files, and of the functions in C.

    Returns:
      One for each format, in their order. Nothing is left in the folder unless all are right.

    Raises:
      UserError: a format that there is not, whose package is missing, or that cannot hold what the
        network computes, all before anything is written; or a file that computes something else.
    """
    chosen = registry.named(formats)
    name = re.sub(r"\W", "_", name)
    name = name if re.match(r"[A-Za-z_]", name) else f"n_{name}"
    source = Source(network, inputs if calibration is None else calibration, name)
    for each in chosen:
        each.check(source)
    wanted = outputs_of(jax.jit(network)(inputs))
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export") as unfinished:
        found = [_written(each, source, Path(unfinished), inputs, wanted) for each in chosen]
        folder.mkdir(exist_ok=True)
        return [_moved(each, folder) for each in found]


def _written(kind: Format, source: Source, folder: Path, inputs: Any, wanted: Any) -> Written:
    files = kind.write(source, folder)
    found = Written(kind.name, tuple(files), files[0].stat().st_size)
    try:
        call = kind.open(files, source)
    except Unrunnable as reason:
        return dataclasses.replace(found, why=str(reason))
    outputs = call(inputs)
    difference = _difference(outputs, wanted)
    if not difference <= kind.tolerance:
        raise UserError(
            f"what was written as {kind.name!r} differs from the network by {difference:.2g} of its"
            f" largest output; allowed: {kind.tolerance:.2g}. Nothing is kept; leave the format"
            " out, and tell the authors of dynhp_jax"
        )
    size = getattr(call, "flash", None) or found.bytes
    ram = getattr(call, "ram", None)
    return dataclasses.replace(found, bytes=size, difference=difference, outputs=outputs, ram=ram)


def _difference(found: Any, wanted: Any) -> float:
    pairs = zip(_list(found), _list(wanted), strict=True)
    each = [
        np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-30)
        if a.shape == b.shape
        else np.inf
        for a, b in pairs
    ]
    return float(max(each))


def _list(outputs: Any) -> Sequence[np.ndarray]:
    return outputs if isinstance(outputs, list) else [outputs]


def _moved(written: Written, folder: Path) -> Written:
    files = tuple(Path(shutil.move(file, folder / file.name)) for file in written.files)
    return dataclasses.replace(written, files=files)
