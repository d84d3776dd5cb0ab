"""Of which commit, versions and machine the epochs of a run are.

A run that goes on after a commit, or on another machine, has epochs of both. Its workdir keeps a
stretch for each, {from_epoch, commit, versions, machine}, so that a result of all of its epochs, or
of the first of them, says where these come from and not where the command was given.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from dynhp_jax.common.disk import write_json
from dynhp_jax.common.notices import warn
from dynhp_jax.training.files import origin
from dynhp_jax.training.files.workdir import Workdir

_DECIDE_BITS = ("jax", "jaxlib")  # of the versions
_UNKNOWN = {"commit": None, "versions": {}, "machine": None}  # of runs that kept none


def present(commit: str = "") -> dict[str, Any]:
    """Commit, versions and machine as they are now; asked once, before anything is run.

    Args:
      commit: that of the code, where it does not lie in a git checkout.
    """
    return {
        "commit": origin.commit() or commit or None,
        "versions": origin.versions(),
        "machine": origin.machine(),
    }


def keep(
    workdir: Workdir, records: Sequence[Mapping[str, Any]], epoch: int, now: Mapping[str, Any]
) -> None:
    """Notes in a workdir of what the epochs are that are run next.

    Args:
      workdir: of the run.
      records: of the epochs that it has; [] where it begins.
      epoch: after which it begins or goes on; what was noted of later ones is dropped with them.
      now: what `present` gave.

    Raises:
      UserError: what was noted before cannot be read.
    """
    stretches = [each for each in workdir.stretches() if each["from_epoch"] <= epoch]
    if records and not stretches:
        stretches = [{"from_epoch": records[0]["epoch"], **_UNKNOWN}]
    if stretches:
        _warn_of_other_bits(stretches[-1], now, epoch)
    write_json(workdir.provenance_file, _joined([*stretches, {"from_epoch": epoch + 1, **now}]))


def _warn_of_other_bits(before: Mapping[str, Any], now: Mapping[str, Any], epoch: int) -> None:
    """Says so if the epochs to come may not be, bit for bit, those of a run that never stopped.

    The number of cores is part of a machine's name: XLA adds up in as many parts as there are.
    """
    was, here = (
        {"machine": each["machine"]} | {name: each["versions"].get(name) for name in _DECIDE_BITS}
        for each in (before, now)
    )
    changes = [
        f"{name} was {was[name]}, is {here[name]}"
        for name in was
        if was[name] is not None and was[name] != here[name]
    ]
    if changes:
        warn(
            f"after epoch {epoch} the last bits may differ from those of a run that never stopped:"
            f" {'; '.join(changes)}"
        )


def stretches_of(workdir: Workdir, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stretches of these epochs of a run, in order.

    Raises:
      UserError: what was noted cannot be read.
    """
    found = [each for each in workdir.stretches() if each["from_epoch"] <= records[-1]["epoch"]]
    return found or [{"from_epoch": records[0]["epoch"], **_UNKNOWN}]


def entries(stretches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a result says: the last stretch's, and `segments` with all where there are several."""
    segments = _joined(stretches)
    return _values(segments[-1]) | ({"segments": segments} if len(segments) > 1 else {})


def _joined(stretches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Without those that say the same as the one before."""
    return [dict(next(alike)) for _, alike in itertools.groupby(stretches, _values)]


def _values(stretch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stretch[name] for name in _UNKNOWN}
