"""The loop between epochs: train, observe, prune, resize, choose the batch, evaluate.

What an epoch computes on the device is in `training.step`; this file decides on the host what its
shapes will be. `advance` reads as the method does, from top to bottom. It is a function from one
`Run` to the next; whoever calls it logs the record and saves a checkpoint.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from dynhp_jax.structure.counts import numbers_in, parameters_left
from dynhp_jax.training.compiled.budget import CHUNK
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import (
    epoch_results,
    epoch_schedules,
    extensions,
    prune_by_criterion,
    shape_plans,
)
from dynhp_jax.training.run.epoch_results import Diverged, Record
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import streaming
from dynhp_jax.training.step.state import TrainState, empty_tally

__all__ = ["Diverged", "advance", "evaluate", "size_of", "train_epoch"]


def advance(trainer: Trainer, run: Run) -> tuple[Run, Record]:
    """One epoch.

    Args:
      trainer: the run's fixed part.
      run: where it stands; its arrays are consumed.

    Returns:
      Where it stands now, and what metrics.jsonl says of the epoch.

    Raises:
      Diverged: the loss or the variance of the gradients is no longer a number.
    """
    programs = trainer.programs
    began, waited_before = time.perf_counter(), programs.waited

    # Shapes: those that were compiled in the meantime come into force. Units that a criterion
    # takes go before the epoch, those with closed gates after it.
    run = shape_plans.carry_out(trainer, shape_plans.begin(trainer, run))
    run = prune_by_criterion.prune(trainer, run)
    run = extensions.begin_epoch(trainer, run)
    epoch, batch, network = run.epoch + 1, run.batch_in_use, run.network

    # Train: one program, whatever the number of steps.
    spent = {
        **run.spent,
        "order": trainer.ordering_bytes(network),
        "training": trainer.steps.training_bytes(network, batch),
    }
    trainer.budget.check("the order of an epoch", spent["order"])
    trainer.budget.check("a training step", spent["training"])
    earlier = prune_by_criterion.remembered(trainer, run)  # the epoch consumes the arrays
    state, tally = train_epoch(trainer, run, batch, epoch, trainer.examples // batch)
    epoch_results.check(epoch, tally.loss)

    # Observe and prune.
    pruned = epoch_results.prune(trainer, network, epoch, batch, tally, jax.device_get(state.masks))
    state = state._replace(masks=jax.device_put(pruned.masks))

    # Evaluate the network that is left, with its gates at their deterministic values.
    results = {}
    for name in sorted(run.splits.keys() - {"train"}):
        spent[name] = trainer.steps.evaluation_bytes(network, run.chunk, name)
        trainer.budget.check(f"evaluation on {name}", spent[name])
        results[name] = evaluate(trainer, network, state, run.splits[name], name, run.chunk)
    # The last step of all may have gone wrong.
    epoch_results.check(epoch, results["test"][network.task.called])

    # Choose the batch, and with it the shapes to come.
    means = jax.device_get(state.means)
    epoch_results.check(epoch, means.grad_variance)
    choice = epoch_results.choose(trainer, network, run.batch, batch, pruned.parameters, means)
    materialised = numbers_in(state.variables["params"])
    record = epoch_results.record(
        trainer, epoch, batch, tally, pruned, results, choice, materialised, spent
    )
    record |= extensions.record(trainer, state)
    run = dataclasses.replace(
        run,
        epoch=epoch,
        batch=choice.batch,
        state=state,
        earlier=earlier,
        given=run.given._replace(prices=pruned.prices),
        memory_kib=(*run.memory_kib, record["memory_kib"]),
        best=min(run.best, (network.task.cost(results["test"]), epoch)),
        spent={},
    )
    if run.plan is None:
        plan = shape_plans.next_plan(trainer, run, pruned.masks, choice.wanted)
        run = dataclasses.replace(run, plan=plan)
    run = shape_plans.begin(trainer, run)
    waited = programs.waited - waited_before
    clocks = {
        "seconds": time.perf_counter() - began - waited,
        "compile_seconds": waited,
        "compilations": programs.compilations,
    }
    return run, record | clocks


def train_epoch(trainer: Trainer, run: Run, batch: int, epoch: int, steps: int):
    """The state after an epoch, and its tally on the host."""
    split, on_host, network = run.splits["train"], trainer.steps.on_host, run.network
    program = trainer.steps.training_program(network, batch)
    order = trainer.order(np.int32(epoch))
    given = run.given._replace(**epoch_schedules.numbers(trainer.config, epoch, steps))
    state, given, order = trainer.place((run.state, given, order))
    if trainer.steps.carries(network):
        size = trainer.steps.fed(network, batch)
        parts = streaming.parts(split, order, size, batch, steps, trainer.place)
        tally = empty_tally(state, network.sums)
        state, tally = streaming.train(program, state, tally, given, parts, on_host)
    else:
        data = (split.inputs, split.targets, given, order)
        state, tally = program(state, *data, np.int32(steps))
    return state, epoch_results.on_host(tally)


def size_of(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Units by group, parameters and KiB of the network that a run has come to."""
    masks = jax.device_get(run.state.masks)
    parameters = parameters_left(run.network.groups, masks)
    return {
        "units": {name: int(masks[name].sum()) for name in run.network.groups},
        "parameters": parameters,
        "model_kib": trainer.paper.model_kib(parameters),
    }


def evaluate(
    trainer: Trainer,
    network: Network,
    state: TrainState,
    split: Split,
    name: str,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """The mean loss and the metrics on a split, by name; see `epoch_results.of_split`."""
    chunk = trainer.steps.evaluated(chunk, name)
    program = trainer.steps.evaluation_program(network, chunk, name)
    arguments = trainer.place(state.evaluated)
    sums = streaming.evaluate(program, arguments, split, chunk, trainer.place)
    return epoch_results.of_split(network.task, sums, len(split))
