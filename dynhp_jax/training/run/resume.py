"""What a checkpoint holds of a run, and how the run is made from it again.

A `Run` goes into a checkpoint as its arrays, `array_part(run)`, and as JSON, `host_part(run,
trainer)`. A `Trainer` of the same config makes the `Run` from the two: `state_shapes` says which
arrays belong to a host part, `run_of` puts both together.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from dynhp_jax.common import schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.memory import trial_records
from dynhp_jax.training.compiled import extension_bytes
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import checkpoint
from dynhp_jax.training.run.checkpoint import Checkpoint
from dynhp_jax.training.run.run import (
    BEST,
    KEEPS,
    MEMORY,
    PLAN,
    Plan,
    Run,
    check_keeps,
    keeps_of,
    lists_of,
)
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import TrainState

_SIZES = schema.list_of(schema.tuple_of(schema.POSITIVE, schema.WHOLE))
HOST = schema.fields(  # what `host_part` gives
    {
        "batch": schema.POSITIVE,
        "batch_in_use": schema.POSITIVE,
        "best": BEST,
        "chunk": schema.POSITIVE,
        "compilations": schema.WHOLE,
        "compile_seconds": schema.NOT_NEGATIVE,
        "compile_waited": schema.NOT_NEGATIVE,
        "devices": schema.POSITIVE,
        "earlier": schema.WHOLE,
        "keeps": KEEPS,
        "looks": schema.fields({"sizes": _SIZES, "room": schema.optional(schema.WHOLE)}),
        "memory_kib": MEMORY,
        "plan": schema.optional(PLAN),
        "score_chunk": schema.WHOLE,
        "spec": schema.MAPPING,
    },
    optional={
        "decided": schema.mapping_of(schema.list_of(schema.WHOLE)),
        "extension": schema.mapping_of(schema.NUMBER),
        "made_of": schema.TEXT,
        "trials": trial_records.SEVERAL,  # what is not there is measured again
    },
)


def array_part(run: Run) -> Any:
    """What a checkpoint holds of a run's arrays: its state, and what there is of earlier epochs."""
    return _with_earlier(run.state, run.earlier)


def host_part(run: Run, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint needs beside the arrays, as JSON holds it."""
    found = extension_bytes.differing(trainer.whole.unbound, run.network.unbound)
    return {
        "batch": run.batch,
        "batch_in_use": run.batch_in_use,
        "chunk": run.chunk,
        "score_chunk": run.score_chunk,
        "devices": trainer.steps.devices,
        "earlier": len(run.earlier),
        "looks": trainer.meter.looks(run.network),
        "spec": run.network.model.to_dict(),
        "keeps": lists_of(run.keeps),
        "memory_kib": list(run.memory_kib),
        "best": list(run.best),
        "plan": run.plan and run.plan.to_dict(),
        "seed": trainer.config.seed,
        **({"made_of": trainer.made_of} if trainer.made_of else {}),
        **({"decided": dict(run.network.decided)} if run.network.decided else {}),
        **({"extension": found} if found else {}),
        "trials": trainer.programs.records.to_dict(),
        "compilations": trainer.programs.compilations,
        "compile_seconds": trainer.programs.seconds,
        "compile_waited": trainer.programs.waited,
    }


def check_made_of(host: Mapping[str, Any], trainer: Trainer) -> None:
    """Raises UserError for a checkpoint of another model, data, loss or metrics of one's own."""
    if host.get("made_of", "") != trainer.made_of:
        raise UserError(
            "the checkpoints there are of a run of another model, data, loss or metrics than"
            " those given now; give the same ones, or take another workdir"
        )


def state_shapes(trainer: Trainer, host: Mapping[str, Any]) -> Any:
    """The shapes and types of the `array_part` that belongs to a `host_part`.

    Raises:
      schema.Unfit: it lacks a field, as another version's may, or holds what this run cannot.
      UserError: it is of another model, data, loss or metrics.
    """
    schema.check(host, HOST)
    check_made_of(host, trainer)
    state = trainer.steps.state_shapes(_network(trainer, host))
    # Earlier variables stay on the host: a budget has room for the state alone.
    kept = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), state.evaluated[0]
    )
    return _with_earlier(state, (kept,) * host["earlier"])


def save(
    trainer: Trainer,
    run: Run,
    directory: Path,
    also: Mapping[str, Any] = MappingProxyType({}),
    keep: int = 3,
) -> Path:
    """Writes the checkpoint of a run; see `checkpoint.save`.

    Args:
      trainer: the run's fixed part.
      run: between two epochs.
      directory: of the checkpoints.
      also: what the host part holds beside the run's own.
      keep: so many of the newest checkpoints stay.
    """
    host = host_part(run, trainer) | also
    return checkpoint.save(directory, run.epoch, array_part(run), host, keep)


def read(trainer: Trainer, directory: Path, epoch: int) -> Checkpoint:
    """The checkpoint of one epoch of a run; see `checkpoint.read`."""
    return checkpoint.read(directory, epoch, lambda host: state_shapes(trainer, host))


def newest(
    trainer: Trainer, directory: Path, warn: Callable[[str], None] = lambda message: None
) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None if there never was one. See `checkpoint.restore`.

    Args:
      trainer: the run's fixed part.
      directory: of the checkpoints.
      warn: is told, in a line, of every damaged one that is passed over.
    """
    return checkpoint.restore(directory, lambda host: state_shapes(trainer, host), warn)


def run_of(trainer: Trainer, saved: Checkpoint) -> Run:
    """The run that `host_part` and `array_part` were saved from.

    Args:
      trainer: its fixed part.
      saved: from `newest` or `read`.

    Raises:
      UserError: it was on another number of devices, and its meter counts the bytes of each device.
    """
    host, count = saved.host, trainer.steps.devices
    before = host["devices"]
    if "devices" in trainer.meter.decided_by and before != count:
        raise UserError(
            f"the run was on {before} devices, here it is {count}, which changes what fits"
            f" (memory.meter is {trainer.config.memory.meter!r}); go on with"
            f" --config.devices={max(1, before // jax.process_count())}"
        )
    keeps = keeps_of(host["keeps"], trainer.whole.groups)
    network, state, earlier = _network(trainer, host), saved.state, ()
    if host["earlier"]:
        state, earlier = state
    trainer.meter.remember(network, host["looks"])
    score_chunk = host["score_chunk"]
    if not score_chunk and trainer.criterion is not None:  # a comparison's warm-up has none
        score_chunk = trainer.config.scores.examples
    return Run(
        epoch=saved.epoch,
        batch=host["batch"],
        batch_in_use=trainer.steps.in_shares(host["batch_in_use"]),
        chunk=host["chunk"],
        network=network,
        keeps=keeps,
        state=state,
        earlier=earlier,
        given=trainer.given(network, keeps, state),
        splits=trainer.splits(keeps),
        memory_kib=tuple(host["memory_kib"]),
        best=tuple(host["best"]),
        plan=host["plan"] and Plan.from_dict(host["plan"], trainer.whole.groups),
        score_chunk=score_chunk,
    )


def _network(trainer: Trainer, host: Mapping[str, Any]) -> Network:
    check_keeps(host["keeps"], trainer.whole.groups)
    whole = trainer.whole
    keeps = keeps_of(host["keeps"], whole.groups)
    try:
        model = whole.model.rebuilt(host["spec"], keeps)
    except UserError as error:
        raise schema.Unfit(f"its spec: {error}") from None
    try:
        extension = extension_bytes.given_again(whole.unbound, host.get("extension", {}))
    except TypeError as error:
        raise schema.Unfit(f"its extension: {error}") from None
    decided = tuple((name, tuple(sizes)) for name, sizes in host.get("decided", {}).items())
    groups = whole.groups.shrunk(keeps)
    return dataclasses.replace(
        whole, model=model, groups=groups, unbound=extension, decided=decided
    )


def _with_earlier(state: TrainState, earlier: tuple) -> Any:
    return (state, earlier) if earlier else state
