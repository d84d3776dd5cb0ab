"""Checkpoints whose shapes change from one to the next, and that are whole or not there at all.

A checkpoint is a directory named after its epoch:

    000012/manifest.json   sha256 of every other file; written last
    000012/host.json       the epoch, and what is no array: spec, batch size, surviving units, ...
    000012/state/          the arrays, by orbax

It is written under another name, flushed to the disk, and renamed: a run that is killed at any
moment leaves whole checkpoints and, at worst, a directory that is never looked at and that the next
run removes. The spec in `host.json` says which shapes to expect, so arrays are restored exactly as
they were; nothing is padded or cut to fit. The epoch stands inside, too, so that a directory with
another name is not taken for the checkpoint of another epoch.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dynhp_jax.common import disk, json_files, processes, schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.tree_paths import path_name
from dynhp_jax.training.step import devices

_HOST = "host.json"
_MANIFEST = "manifest.json"
_STATE = "state"
_EPOCH = "epoch"  # in the host part
_DIGESTS = schema.mapping_of(schema.SHA256)


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

    Of several processes each calls this, and all see the same directory.

    Args:
      directory: where the checkpoints of a run lie; made if missing, in one that exists: a run
        whose directory was removed must not make another one.
      epoch: how many epochs are behind `state`.
      state: a pytree of arrays.
      host: what JSON can hold; `restore` shows it to the caller to learn the shapes of the state.
      keep: how many checkpoints stay.

    Raises:
      OSError: the disk is full or read-only; what was there before is untouched.
      UserError: somebody removed it while it was written.
    """
    directory = Path(directory).absolute()
    final = directory / f"{epoch:06d}"
    unfinished = final.with_name(f"{disk.UNFINISHED}{final.name}")
    # Orbax has every process write its part of the arrays; all else process 0 does.
    with processes.together(f"before the checkpoint of epoch {epoch}"):
        if processes.leads():
            _make_room(unfinished, final, state)
    with _taken_away(unfinished, final), disk.naming(directory), disk.disk_errors(directory):
        with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as orbax:
            orbax.save(unfinished / _STATE, args=ocp.args.StandardSave(state))
        with processes.together(f"the checkpoint of epoch {epoch}"):
            if processes.leads():
                _complete(unfinished, final, {_EPOCH: epoch, **host})
                for old in epochs(directory)[:-keep]:
                    disk.remove(directory / f"{old:06d}")
    return final


def _make_room(unfinished: Path, final: Path, state: Any) -> None:
    """A folder for a checkpoint, on a disk that can hold it."""
    unfinished.parent.mkdir(exist_ok=True)
    disk.remove(unfinished)
    unfinished.mkdir()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    with _taken_away(unfinished, final):
        disk.check_room(unfinished / "room", 2 * size + 2**18)


def _complete(unfinished: Path, final: Path, host: dict[str, Any]) -> None:
    """Adds to the arrays what else belongs to a checkpoint, and gives it its name."""
    (unfinished / _HOST).write_text(json.dumps(host, allow_nan=False))
    (unfinished / _MANIFEST).write_text(json.dumps(_digests(unfinished), indent=1))
    for path in [*disk.files(unfinished), unfinished]:
        disk.flush(path)
    disk.remove(final)
    unfinished.rename(final)
    disk.flush(final.parent)


@contextlib.contextmanager
def _taken_away(unfinished: Path, final: Path) -> Iterator[None]:
    """Leaves nothing of a checkpoint that cannot be finished; says so where somebody removed it."""
    try:
        yield
    except BaseException as error:
        taken_away = not (unfinished.exists() or final.exists())
        if processes.leads():
            shutil.rmtree(unfinished, ignore_errors=True)
        if taken_away and isinstance(error, Exception):
            raise UserError(
                f"{unfinished} was removed while it was written; the same command goes on from"
                " what is left"
            ) from error
        raise


def restore(
    directory: Path,
    shapes: Callable[[dict[str, Any]], Any],
    warn: Callable[[str], None] = lambda message: None,
) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole.

    Args:
      directory: as given to `save`.
      shapes: host -> the state's pytree, of jax.ShapeDtypeStruct, which may say a sharding; of
        NumPy arrays where it is to stay in the memory of the host.
      warn: told, in a line, of every checkpoint that is damaged and passed over.

    Returns:
      The checkpoint, or None if there never was one.

    Raises:
      UserError: there are checkpoints and none of them is whole; or the newest one that is holds
        other arrays than `shapes` says, or is of another epoch than its name.
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
    """The epochs of which there is a checkpoint, damaged or not, oldest first.

    Raises:
      UserError: something there has the name of a checkpoint, or nearly so, and is none.
    """
    if not Path(directory).is_dir():
        return []
    found = []
    for path in Path(directory).iterdir():
        if not path.name.isdigit():
            continue
        if not path.name.isdecimal() or path.name != f"{int(path.name):06d}" or not path.is_dir():
            raise UserError(
                f"{path} is no checkpoint, whose names are directories like 000012; move it away"
            )
        found.append(int(path.name))
    return sorted(found)


def sweep(directory: Path, after: int | None = None) -> None:
    """Removes what a killed run left unfinished. Call it when no other run uses the directory.

    Args:
      directory: as given to `save`.
      after: an epoch from which a run goes on: checkpoints of later ones, which it passed over, go.
    """
    if not Path(directory).is_dir():
        return
    for path in Path(directory).glob(f"{disk.UNFINISHED}*"):
        disk.destroy(path)
    for epoch in epochs(directory):
        if after is not None and epoch > after:
            disk.remove(Path(directory) / f"{epoch:06d}")


def read(directory: Path, epoch: int, shapes: Callable) -> Checkpoint:
    """The checkpoint of one epoch; the rest is as in `restore`.

    Raises:
      Corrupted: it is not whole, or not there.
      UserError: it holds other arrays, or is of another epoch.
    """
    path = Path(directory).absolute() / f"{epoch:06d}"
    manifest, present = _manifest(path), _digests(path)
    for name, digest in manifest.items():
        if name not in present:
            raise Corrupted(f"{schema.shown(name)} is missing")
        if present[name] != digest:
            raise Corrupted(f"{schema.shown(name)} was changed or cut short")
    host = read_host(directory, epoch)
    try:
        expected = shapes(host)
    except schema.Unfit as fault:
        raise UserError(
            f"{path / _HOST}: {fault}: the checkpoint is of another version of dynhp_jax;"
            " start again in another --workdir"
        ) from None
    # Placed here and now: what was saved on another machine's accelerator comes back on this one's.
    here = devices.anywhere()
    target = jax.tree.map(
        lambda leaf: (
            leaf  # to the host
            if isinstance(leaf, np.ndarray)
            else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)
        ),
        expected,
    )
    with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as orbax:
        with _as_corruption():
            saved = orbax.metadata(path / _STATE).item_metadata.tree
        _check_arrays(path, saved, target)
        with _as_corruption():
            state = orbax.restore(path / _STATE, args=ocp.args.StandardRestore(target))
    return Checkpoint(epoch, state, host)


def newest_host(directory: Path) -> dict[str, Any]:
    """The host part of the newest checkpoint in which that is whole; {} if there is none.

    It is for what has to be known before `restore` can be told what shapes to expect.
    """
    for epoch in reversed(epochs(directory)):
        with contextlib.suppress(Corrupted):
            return read_host(directory, epoch)
    return {}


def read_host(directory: Path, epoch: int) -> dict[str, Any]:
    """The `host` of the checkpoint of one epoch; its arrays are not looked at.

    Raises:
      Corrupted: it is not what the manifest says, or not there.
      UserError: it cannot be read, or is of another epoch.
    """
    path = Path(directory).absolute() / f"{epoch:06d}"
    manifest = _manifest(path)
    try:
        content = json_files.read_bytes(path / _HOST, "remove the checkpoint")
    except FileNotFoundError:
        raise Corrupted(f"{_HOST} is missing") from None
    if hashlib.sha256(content).hexdigest() != manifest[_HOST]:
        raise Corrupted(f"{_HOST} was changed or cut short")
    try:
        host = json_files.loads(content)
        schema.check(host, schema.MAPPING)
    except (json_files.NotJson, schema.Unfit) as fault:
        raise Corrupted(f"{_HOST}: {fault}") from None
    if _EPOCH not in host:
        raise UserError(
            f"{path / _HOST}: it has no {_EPOCH}: the checkpoint is of another version of"
            " dynhp_jax; start again in another --workdir"
        )
    inside = host.pop(_EPOCH)
    if inside != epoch or isinstance(inside, bool):
        named = f"{inside:06d}" if isinstance(inside, int) else schema.shown(str(inside))
        raise UserError(
            f"{path} holds the checkpoint of epoch {named}; give it that name again, or remove it"
        )
    return host


def _manifest(path: Path) -> dict[str, str]:
    """The sha256 of every other file of a checkpoint, the host part's among them.

    Raises:
      Corrupted: it is not there, or is none.
      UserError: it cannot be read.
    """
    try:
        manifest = json_files.loads(
            json_files.read_bytes(path / _MANIFEST, "remove the checkpoint")
        )
        schema.check(manifest, _DIGESTS)
    except FileNotFoundError:
        raise Corrupted(f"{_MANIFEST} is missing") from None
    except (json_files.NotJson, schema.Unfit) as fault:
        raise Corrupted(f"{_MANIFEST} cannot be read: {fault}") from None
    if _HOST not in manifest:
        raise Corrupted(f"{_MANIFEST} does not list {_HOST}")
    return manifest


@contextlib.contextmanager
def _as_corruption():
    """Whatever orbax makes of files that are not its own, though the manifest lists them."""
    try:
        yield
    except Exception as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise Corrupted(f"{_STATE} cannot be read: {words[0][:200]}") from error


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


def _digests(path: Path) -> dict[str, str]:
    """Of every file below `path` but the manifest.

    Raises:
      UserError: one cannot be read.
    """
    return {
        str(each.relative_to(path)): hashlib.sha256(
            json_files.read_bytes(each, "make it readable, or remove the checkpoint")
        ).hexdigest()
        for each in disk.files(path)
        if each.is_file() and each.name != _MANIFEST
    }
