"""The loop between epochs: train, observe, prune, resize, choose the batch, evaluate.

What an epoch computes on the device is in `training`; this file decides on the host what its shapes
will be. `advance` reads as the method does, from top to bottom. It is a function from one `Run` to
the next; whoever calls it logs the record and saves a checkpoint.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from dynhp_jax import feeding, metering, plans
from dynhp_jax.budget import CHUNK
from dynhp_jax.criteria import activation
from dynhp_jax.errors import UserError
from dynhp_jax.network import Network
from dynhp_jax.runs import Run, Split, Trainer, measure, numbers_in
from dynhp_jax.training import TrainState

Record = dict[str, Any]


class Diverged(UserError):
    """A loss or a parameter is no longer a finite number.

    Attributes:
      epoch: in which it happened.
    """

    def __init__(self, epoch: int):
        self.epoch = epoch
        super().__init__(f"the loss or a parameter became NaN or infinite in epoch {epoch}")


def advance(trainer: Trainer, run: Run) -> tuple[Run, Record]:
    """One epoch.

    Args:
      trainer: the run's fixed part.
      run: where it stands; its arrays are consumed.

    Returns:
      Where it stands now, and what metrics.jsonl says of the epoch.

    Raises:
      Diverged: the loss is no longer a number.
    """
    config, programs = trainer.config, trainer.programs
    began, waited_before = time.perf_counter(), programs.waited

    # Shapes: those that were compiled in the meantime come into force.
    run = plans.carry_out(trainer, plans.begin(trainer, run))
    epoch, batch, network = run.epoch + 1, run.batch_in_use, run.network
    steps = trainer.examples // batch

    # Train: one program, whatever the number of steps.
    spent = {"training": trainer.budget.training_bytes(network, batch)}
    trainer.budget.check("a training step", spent["training"])
    state, tally = train_epoch(trainer, run, batch, epoch, steps)
    if not math.isfinite(tally.loss):
        raise Diverged(epoch)

    # Observe and prune: exact and at once, by masks.
    observations = steps * batch if config.gates.per_example else steps
    rates = activation.rates(tally.counts, observations)
    masks = jax.device_get(state.masks)
    if config.prunes:
        masks = activation.keep_active(rates, masks, config.pruning.gamma)
        state = state._replace(masks=jax.device_put(masks))
    parameters, prices = measure(network, masks)

    # Evaluate the network that is left, with its gates at their deterministic values.
    results = {}
    for name in sorted(run.splits.keys() - {"train"}):
        spent[name] = trainer.budget.evaluation_bytes(network, run.chunk, name)
        trainer.budget.check(f"evaluation on {name}", spent[name])
        results[name] = evaluate(trainer, network, state, run.splits[name], name, run.chunk)
    test = results["test"]
    if not math.isfinite(test["cross_entropy"]):  # the last step of all went wrong
        raise Diverged(epoch)

    # Choose the batch from what the epoch's gradients were like and what the budget leaves.
    means = jax.device_get(state.means)
    grad_variance = max(0.0, float(means.grad_variance / means.weight))
    smoothed = means.loss if config.batch.loss == "total" else means.cross_entropy
    smoothed = max(0.0, float(smoothed / means.weight))
    room = trainer.room(parameters)
    wanted = trainer.controller.update(run.batch, grad_variance, smoothed, room)
    next_batch = trainer.budget.capped(network, wanted) if trainer.by_xla else wanted

    peak = max(map(metering.total, spent.values())) / 1024
    memory_kib = peak if trainer.by_xla else trainer.meter.memory_kib(parameters, batch)
    device_peak = metering.device_peak()
    best = min(run.best, (test["error"], epoch))
    waited = programs.waited - waited_before
    record = {
        "epoch": epoch,
        "train_loss": tally.loss / steps,
        "cross_entropy": tally.cross_entropy / steps,
        "penalty": tally.penalty / steps,
        "train_error": 100 * tally.wrong / (steps * batch),
        "test_error": test["error"],
        "test_cross_entropy": test["cross_entropy"],
        "units": {name: int(masks[name].sum()) for name in network.groups},
        "active": {name: float(rates[name].sum()) for name in network.groups},
        "parameters": parameters,
        "materialised": numbers_in(state.variables["params"]),
        "batch_size": batch,
        "wanted_batch": wanted,
        "next_batch": next_batch,
        "steps": steps,
        "grad_variance": grad_variance,
        "smoothed_loss": smoothed,
        "variance_ratio": grad_variance / smoothed if smoothed else 0.0,
        "model_kib": trainer.meter.model_kib(parameters),
        "memory_kib": memory_kib,
        "allocated_kib": peak,
        "allocated": spent,
        "savings": list(trainer.budget.used.names),
        "device_peak_kib": None if device_peak is None else device_peak / 1024,
        "budget_kib": None if trainer.budget_bytes is None else trainer.budget_bytes / 1024,
        "seconds": time.perf_counter() - began - waited,
        "compile_seconds": waited,
        "compilations": programs.compilations,
    }
    if "validation" in results:
        record["validation_error"] = results["validation"]["error"]
    run = dataclasses.replace(
        run,
        epoch=epoch,
        batch=next_batch,
        state=state,
        given=run.given._replace(prices=prices),
        memory_kib=(*run.memory_kib, memory_kib),
        best=best,
    )
    if run.plan is None:
        run = dataclasses.replace(run, plan=plans.next_plan(trainer, run, masks, wanted))
    return plans.begin(trainer, run), record


def train_epoch(trainer: Trainer, run: Run, batch: int, epoch: int, steps: int):
    """The state after an epoch, and its tally on the host."""
    split, on_host, network = run.splits["train"], trainer.steps_on_host, run.network
    program = trainer.budget.training_program(network, batch, on_host)
    order = trainer.order(np.int32(epoch))
    state, given, order = trainer.place((run.state, run.given, order))
    if on_host or trainer.budget.streams(network, "train"):
        size = trainer.budget.fed(network, batch)
        parts = feeding.parts(split, order, size, batch, steps, trainer.place)
        state, tally = feeding.train(program, state, given, parts, on_host)
    else:
        data = (split.images, split.labels, given, order)
        state, tally = program(state, *data, np.int32(steps))
    return state, jax.tree.map(lambda leaf: leaf.item() if leaf.ndim == 0 else leaf,
                               jax.device_get(tally))  # fmt: skip


def size_of(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Units by group, parameters and KiB of the network that a run has come to."""
    masks = jax.device_get(run.state.masks)
    parameters, _ = measure(run.network, masks)
    return {
        "units": {name: int(masks[name].sum()) for name in run.network.groups},
        "parameters": parameters,
        "model_kib": trainer.meter.model_kib(parameters),
    }


def evaluate(
    trainer: Trainer,
    network: Network,
    state: TrainState,
    split: Split,
    name: str,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Error in percent, mean cross-entropy and confusion matrix (labels by row) on a split."""
    examples, chunk = len(split.labels), trainer.budget.evaluated(chunk, name)
    program = trainer.budget.evaluation_program(network, chunk, name)
    arguments = trainer.place((state.variables, state.gates, state.masks))
    parts = feeding.evaluate(program, arguments, split, chunk, trainer.place)
    confusion, loss = (sum(part) for part in zip(*parts, strict=True))
    return {
        "error": 100 * (examples - int(np.trace(confusion))) / examples,
        "cross_entropy": float(loss) / examples,
        "confusion": confusion,
    }
