"""The epochs of one run.

`advance` is a function from one `Run` to the next; whoever calls it logs the record and saves a
checkpoint. How an epoch goes is in `one_epoch`; here is how a single run executes it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dynhp_jax.structure.counts import parameters_left
from dynhp_jax.training.compiled.budget import CHUNK
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import (
    epoch_results,
    epoch_schedules,
    extensions,
    prune_by_criterion,
    shape_plans,
)
from dynhp_jax.training.run.epoch_results import Choice, Diverged, Pruned, Record
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.one_epoch import one_epoch
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step import streaming
from dynhp_jax.training.step.state import Tally, TrainState, empty_tally

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
    run, (record,) = one_epoch(Single(trainer), run)
    return run, record


class Single:
    """One run; see `one_epoch.Execution`.

    Args:
      trainer: the run's fixed part.
    """

    def __init__(self, trainer: Trainer):
        self.trainers, self.programs, self._trainer = (trainer,), trainer.programs, trainer

    def members(self, run: Run) -> tuple[Run]:
        """The run itself."""
        return (run,)

    def with_members(self, run: Run, members: Sequence[Run]) -> Run:
        """The only one."""
        (run,) = members
        return run

    def each(self, tree: Any) -> list[Any]:
        """The tree."""
        return [tree]

    def joined(self, trees: Sequence[Any]) -> Any:
        """The only one."""
        (tree,) = trees
        return self._trainer.place(tree)

    def begin(self, run: Run) -> Run:
        """In the shapes that are due, without the units that go, as the extension decides."""
        run = shape_plans.carry_out(self._trainer, shape_plans.begin(self._trainer, run))
        return extensions.begin_epoch(self._trainer, prune_by_criterion.prune(self._trainer, run))

    def spent(self, run: Run) -> list[dict[str, Bytes]]:
        """What was executed since the last epoch, and what the next one executes."""
        trainer, network = self._trainer, run.network
        needed = {
            "order": ("the order of an epoch", trainer.ordering_bytes(network)),
            "training": (
                "a training step",
                trainer.steps.training_bytes(network, run.batch_in_use),
            ),
        }
        for name in sorted(run.splits.keys() - {"train"}):
            parts = trainer.steps.evaluation_bytes(network, run.chunk, name)
            needed[name] = f"evaluation on {name}", parts
        for what, parts in needed.values():
            trainer.budget.check(what, parts)
        return [{**run.spent, **{name: parts for name, (_, parts) in needed.items()}}]

    def train(self, run: Run, epoch: int) -> tuple[Run, list[Tally]]:
        """The run after the steps of an epoch, and its tally."""
        trainer, batch = self._trainer, run.batch_in_use
        earlier = prune_by_criterion.remembered(trainer, run)  # the epoch consumes the arrays
        state, tally = train_epoch(trainer, run, batch, epoch, trainer.examples // batch)
        return dataclasses.replace(run, state=state, earlier=earlier), [tally]

    def evaluate(self, run: Run, name: str) -> list[dict[str, Any]]:
        """The run's results on a split."""
        split = run.splits[name]
        return [evaluate(self._trainer, run.network, run.state, split, name, run.chunk)]

    def end(self, run: Run, pruned: Sequence[Pruned], choices: Sequence[Choice]) -> Run:
        """The run with a plan, if its shapes are to change; it is being worked on."""
        (left,), (choice,) = pruned, choices
        run = dataclasses.replace(run, epoch=run.epoch + 1, spent={})
        if run.plan is None:
            plan = shape_plans.next_plan(self._trainer, run, left.masks, choice.wanted)
            run = dataclasses.replace(run, plan=plan)
        return shape_plans.begin(self._trainer, run)


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
        in_turn = trainer.budget.bytes is not None and jax.default_backend() == "cpu"
        state, tally = streaming.train(program, state, tally, given, parts, on_host, in_turn)
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
    arguments = trainer.place(network.evaluated(state))
    sums = streaming.evaluate(program, arguments, split, chunk, trainer.place)
    return epoch_results.of_split(network.task, sums, len(split))
