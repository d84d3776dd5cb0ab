"""Checkpoints whose shapes change from one to the next, and that are whole or not there at all.

A checkpoint is a directory named after its epoch:

    000012/manifest.json   sha256 of every other file; written last
    000012/host.json       what is not an array: spec, batch size, surviving units, history
    000012/state/          the arrays, by orbax

It is written under another name, flushed to the disk, and renamed: a run that is killed at any
moment leaves whole checkpoints and, at worst, a directory that is never looked at and that the next
run removes. The spec in `host.json` says which shapes to expect, so arrays are restored exactly as
they were; nothing is padded or cut to fit.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dynhp_jax.errors import UserError
from dynhp_jax.jaxprs.trace import path_name

_HOST = "host.json"
_MANIFEST = "manifest.json"
_STATE = "state"
_TEMPORARY = ".unfinished-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What `restore` found: the epoch, the state's arrays, and what belongs to the host."""

    epoch: int
    state: Any
    host: dict[str, Any]


class Corrupted(Exception):
    """A checkpoint is not what its manifest says."""


def save(directory: Path, epoch: int, state: Any, host: dict[str, Any], keep: int = 3) -> Path:
    """Writes a checkpoint, all of it or nothing, and removes all but the newest `keep`.

    Args:
      directory: where the checkpoints of a run lie; made if missing.
      epoch: how many epochs are behind `state`.
      state: a pytree of arrays.
      host: what JSON can hold; `restore` shows it to the caller to learn the shapes of the state.
      keep: how many checkpoints stay.

    Raises:
      OSError: the disk is full or read-only; what was there before is untouched.
    """
    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f"{_TEMPORARY}{epoch:06d}"
    _remove(unfinished)
    unfinished.mkdir()
    try:
        _check_room(unfinished / "room", state)
        with naming(directory), _disk_errors(directory):
            with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as orbax:
                orbax.save(unfinished / _STATE, args=ocp.args.StandardSave(state))
            (unfinished / _HOST).write_text(json.dumps(host))
            (unfinished / _MANIFEST).write_text(json.dumps(_digests(unfinished), indent=1))
            for path in [*_files(unfinished), unfinished]:
                _flush(path)
            final = directory / f"{epoch:06d}"
            _remove(final)
            unfinished.rename(final)
            _flush(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in epochs(directory)[:-keep]:
        _remove(directory / f"{old:06d}")
    return final


def restore(
    directory: Path,
    shapes: Callable[[dict[str, Any]], Any],
    warn: Callable[[str], None] = lambda message: None,
) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole.

    Args:
      directory: as given to `save`.
      shapes: host -> the state's pytree, of jax.ShapeDtypeStruct.
      warn: told, in a line, of every checkpoint that is damaged and passed over.

    Returns:
      The checkpoint, or None if there never was one.

    Raises:
      UserError: there are checkpoints and none of them is whole; or the newest one that is holds
        other arrays than `shapes` says.
    """
    directory = Path(directory).absolute()
    found = epochs(directory)
    for epoch in reversed(found):
        path = directory / f"{epoch:06d}"
        try:
            return read(directory, epoch, shapes)
        except Corrupted as damage:
            warn(f"checkpoint {path} is damaged ({damage}); passing over it for an earlier one")
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {directory} is whole;"
            " start again in another --workdir, or remove this one"
        )
    return None


def epochs(directory: Path) -> list[int]:
    """The epochs of which there is a checkpoint, damaged or not, oldest first."""
    if not Path(directory).is_dir():
        return []
    return sorted(int(p.name) for p in Path(directory).iterdir() if p.name.isdigit() and p.is_dir())


def sweep(directory: Path) -> None:
    """Removes what a killed run left unfinished. Call it when no other run uses the directory."""
    if Path(directory).is_dir():
        for path in Path(directory).glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


def read(directory: Path, epoch: int, shapes: Callable) -> Checkpoint:
    """The checkpoint of one epoch; the rest is as in `restore`.

    Raises:
      Corrupted: it is not whole, or not there.
      UserError: it holds other arrays.
    """
    path = Path(directory).absolute() / f"{epoch:06d}"
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise Corrupted(f"{_MANIFEST} cannot be read") from error
    if not isinstance(manifest, dict) or _HOST not in manifest:
        raise Corrupted(f"{_MANIFEST} does not list {_HOST}")
    present = _digests(path)
    for name, digest in manifest.items():
        if name not in present:
            raise Corrupted(f"{name} is missing")
        if present[name] != digest:
            raise Corrupted(f"{name} was changed or cut short")
    host = json.loads((path / _HOST).read_text())
    # Placed here and now: what was saved on another machine's accelerator comes back on this one's.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes(host)
    )
    with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as orbax:
        _check_arrays(path, orbax.metadata(path / _STATE).item_metadata.tree, target)
        state = orbax.restore(path / _STATE, args=ocp.args.StandardRestore(target))
    return Checkpoint(epoch, state, host)


def _check_arrays(path: Path, saved: Any, expected: Any) -> None:
    """Raises UserError unless names, shapes and types are the same; orbax would convert types."""
    found, wanted = ({path_name(place): (leaf.dtype, leaf.shape)
                      for place, leaf in jax.tree_util.tree_leaves_with_path(tree)}
                     for tree in (saved, expected))  # fmt: skip
    for name in [*wanted, *found]:
        here, there = (
            f"{each[name][0]}{list(each[name][1])}" if name in each else "nothing"
            for each in (found, wanted)
        )
        if here != there:
            raise UserError(
                f"checkpoint {path} holds {here} as {name!r}, this run needs {there}: it is of"
                " another config or version of dynhp_jax; start again in another --workdir"
            )


def _files(path: Path) -> list[Path]:
    """Everything below `path`, the innermost first, so that a directory comes after its files."""
    return sorted(path.rglob("*"), key=lambda each: -len(each.parts))


def _digests(path: Path) -> dict[str, str]:
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in _files(path)
        if each.is_file() and each.name != _MANIFEST
    }


def _remove(path: Path) -> None:
    """Removes a directory such that a kill in between leaves no half of it under its name."""
    if path.exists():
        doomed = path.with_name(f"{_TEMPORARY}old-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_room(path: Path, state: Any) -> None:
    """Takes the room that a checkpoint may need, and gives it back.

    Orbax writes from threads of its own, and on a full disk each of them fills stderr with
    tracebacks; so a full disk has to be found before.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    try:
        with naming(path), open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * size + 2**18)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path):
    """Says in an OSError where it was: the system leaves that out when a write fails."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def _disk_errors(directory: Path):
    """Orbax reports a full disk as a ValueError, with the system's words in it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        for words in ("No space left on device", "Read-only file system", "File too large",
                      "Permission denied", "Disk quota exceeded"):  # fmt: skip
            if words in str(error):
                raise OSError(f"{words}: {directory}") from error
        raise
