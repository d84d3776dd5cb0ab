"""What a checkpoint holds of a sweep, and how its members are made from it again.

As with one run (`run.resume`): the stacked arrays, and `host_part`, as JSON.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from dynhp_jax.common import schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.training.compiled.budget import CHUNK
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import checkpoint
from dynhp_jax.training.run.checkpoint import Checkpoint
from dynhp_jax.training.run.resume import check_made_of
from dynhp_jax.training.run.run import BEST, KEEPS, MEMORY, PLAN, Run, check_keeps, keeps_of
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import TrainState
from dynhp_jax.training.sweep.member import Member
from dynhp_jax.training.sweep.stacked import member_of
from dynhp_jax.training.sweep.team import Replicas, Team

_ALONE = schema.fields(
    {"batch_in_use": schema.POSITIVE, "keeps": KEEPS, "plan": schema.optional(PLAN)}
)
_MEMBER = schema.fields(
    {"batch": schema.POSITIVE, "keeps": KEEPS, "alone": _ALONE, "memory_kib": MEMORY, "best": BEST}
)
HOST = schema.fields(  # what `host_part` gives
    {"members": schema.list_of(_MEMBER, 1)}, optional={"made_of": schema.TEXT}
)


def host_part(replicas: Replicas, made_of: str = "") -> dict[str, Any]:
    """What a checkpoint needs beside the arrays, as JSON holds it.

    Args:
      replicas: between two epochs.
      made_of: see `Trainer`.
    """
    members = [member.to_dict() for member in replicas.members]
    return {"members": members, **({"made_of": made_of} if made_of else {})}


def save(
    replicas: Replicas,
    directory: Path,
    also: Mapping[str, Any] = MappingProxyType({}),
    keep: int = 3,
    made_of: str = "",
) -> Path:
    """Writes the checkpoint of a sweep; see `checkpoint.save`.

    Args:
      replicas: between two epochs.
      directory: of the checkpoints.
      also: what the host part holds beside the members.
      keep: so many of the newest checkpoints stay.
      made_of: see `Trainer`.
    """
    host = host_part(replicas, made_of) | also
    return checkpoint.save(directory, replicas.epoch, replicas.state, host, keep)


def state_shapes(trainer: Trainer, host: Mapping[str, Any]) -> TrainState:
    """The stacked state's shapes and types that belong to a `host_part`.

    Args:
      trainer: of any member.
      host: of the sweep.

    Raises:
      schema.Unfit: it lacks a field, as another version's may, or holds what these runs cannot.
      UserError: it is of another model, data, loss or metrics.
    """
    schema.check(host, HOST)
    check_made_of(host, trainer)
    for member in host["members"]:
        for keeps in (member["keeps"], member["alone"]["keeps"]):
            check_keeps(keeps, trainer.whole.groups)
    one = trainer.steps.state_shapes(_network(trainer, host))
    count = len(host["members"])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)


def newest(
    trainer: Trainer, directory: Path, warn: Callable[[str], None] = lambda message: None
) -> Checkpoint | None:
    """The newest whole checkpoint of a sweep, None if there never was one: `checkpoint.restore`.

    Args:
      trainer: of any member.
      directory: of the checkpoints.
      warn: is told, in a line, of every damaged one that is passed over.
    """
    return checkpoint.restore(directory, lambda host: state_shapes(trainer, host), warn)


def replicas_of(team: Team, saved: Checkpoint) -> Replicas:
    """The members that `host_part` and their state were saved from.

    Raises:
      UserError: there were more of them, or fewer.
    """
    found = saved.host["members"]
    if len(found) != len(team.trainers):
        raise UserError(
            f"the checkpoint of epoch {saved.epoch} is of a sweep of {len(found)} members, here are"
            f" {len(team.trainers)}; start again in another --workdir"
        )
    members = tuple(
        Member.from_dict(trainer, saved.epoch, each)
        for trainer, each in zip(team.trainers, found, strict=True)
    )
    network = _network(team.lead, saved.host)
    given = team.given(network, members, saved.state)
    return Replicas(network, members, saved.state, given, team.lead.splits(members[0].keeps))


def run_of(trainer: Trainer, saved: Checkpoint, k: int) -> Run:
    """The k-th member as a run, to be evaluated: its arrays are as large as everybody's.

    Args:
      trainer: the member's.
      saved: of its sweep, from `newest`.
      k: which one.
    """
    member = Member.from_dict(trainer, saved.epoch, saved.host["members"][k])
    network, keeps = _network(trainer, saved.host), member.keeps
    state = member_of(saved.state, k)
    return Run(
        epoch=member.epoch,
        batch=member.batch,
        batch_in_use=member.batch_in_use,
        chunk=CHUNK,
        network=network,
        keeps=keeps,
        state=state,
        given=trainer.given(network, keeps, state),
        splits=trainer.splits(keeps),
        memory_kib=member.memory_kib,
        best=member.best,
    )


def _network(trainer: Trainer, host: Mapping[str, Any]) -> Network:
    """The network whose sizes everybody's arrays have."""
    whole = trainer.whole
    return whole.part(keeps_of(host["members"][0]["keeps"], whole.groups))
