"""An epoch on the host: train, observe, prune, evaluate, choose the batch, resize.

What an epoch computes on the device is in `training.step`; this file decides on the host what its
shapes will be. `one_epoch` reads as the method does, from top to bottom, for one run and for
several that train side by side; what these two do in different ways is behind `Execution`.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from dynhp_jax.structure.counts import numbers_in
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import epoch_results, extensions
from dynhp_jax.training.run.epoch_results import Choice, Pruned, Record
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.state import StepInputs, Tally, TrainState


class Own(Protocol):
    """What is a run's own between two epochs, also where it shares arrays with others.

    Attributes:
      batch: the controller's exact mini-batch.
      batch_in_use: the mini-batch that is compiled.
      memory_kib: of every epoch so far, by the run's meter.
      best: (`Task.cost` on the test set, epoch) of the best epoch so far.
    """

    batch: int
    batch_in_use: int
    memory_kib: tuple[float, ...]
    best: tuple[float, int]


class Standing(Protocol):
    """Where one run, or several, stand between two epochs: a dataclass.

    Attributes:
      epoch: epochs done.
      network: sizes of the arrays.
      state: the arrays; an epoch consumes them.
      given: what steps read beside them.
      splits: the data.
    """

    epoch: int
    network: Network
    state: TrainState
    given: StepInputs
    splits: Mapping[str, Split]


class Execution(Protocol):
    """How one run, or several side by side, are executed: `loop.Single` and `sweep.team.Team`.

    Attributes:
      trainers: of every run.
      programs: where compiled programs are counted.
    """

    trainers: Sequence[Trainer]
    programs: Programs

    def members(self, runs: Standing) -> Sequence[Own]:
        """What is each run's own."""

    def with_members(self, runs: Standing, members: Sequence[Own]) -> Standing:
        """With something else as each run's own."""

    def each(self, tree: Any) -> list[Any]:
        """A tree of everybody's arrays as one for each run."""

    def joined(self, trees: Sequence[Any]) -> Any:
        """The inverse of `each`, on the device."""

    def begin(self, runs: Standing) -> Standing:
        """With the shapes that are due, without the units that go before the next epoch."""

    def spent(self, runs: Standing) -> list[dict[str, Bytes]]:
        """Bytes of the programs of the next epoch, for each run; {} where nobody counts them.

        Raises:
          Exceeded: one of them takes more than the budget.
        """

    def train(self, runs: Standing, epoch: int) -> tuple[Standing, list[Tally]]:
        """After the steps of an epoch, with the tally of each run, on the host."""

    def evaluate(self, runs: Standing, name: str) -> list[dict[str, Any]]:
        """The results of each run on a split; see `epoch_results.of_split`."""

    def end(self, runs: Standing, pruned: Sequence[Pruned], choices: Sequence[Choice]) -> Standing:
        """After the epoch, with the shapes to come."""


def one_epoch(execution: Execution, runs: Standing) -> tuple[Standing, list[Record]]:
    """One epoch of one run, or of several side by side.

    Args:
      execution: how they are executed.
      runs: where they stand; their arrays are consumed.

    Returns:
      Where they stand now, and what each one's metrics.jsonl says of the epoch; seconds are shares.

    Raises:
      Diverged: a loss or a variance of gradients is no longer a number.
    """
    programs, trainers = execution.programs, execution.trainers
    began, waited_before = time.perf_counter(), programs.waited

    # Shapes: those that were compiled in the meantime come into force. Units that a criterion
    # takes go before the epoch, those with closed gates after it.
    runs = execution.begin(runs)
    epoch, network = runs.epoch + 1, runs.network
    batches = [each.batch_in_use for each in execution.members(runs)]
    spent = execution.spent(runs)

    # Train: one program, whatever the number of steps.
    runs, tallies = execution.train(runs, epoch)
    epoch_results.check(epoch, *(tally.loss for tally in tallies))

    # Observe and prune.
    masks = execution.each(jax.device_get(runs.state.masks))
    pruned = [
        epoch_results.prune(trainer, network, epoch, batch, tally, living)
        for trainer, batch, tally, living in zip(trainers, batches, tallies, masks, strict=True)
    ]
    state = runs.state._replace(masks=execution.joined([each.masks for each in pruned]))
    given = runs.given._replace(prices=execution.joined([each.prices for each in pruned]))
    runs = dataclasses.replace(runs, state=state, given=given)

    # Evaluate the network that is left, with its gates at their deterministic values.
    results = [{} for _ in trainers]
    for name in sorted(runs.splits.keys() - {"train"}):
        for mine, found in zip(results, execution.evaluate(runs, name), strict=True):
            mine[name] = found
    # The last step of all may have gone wrong.
    epoch_results.check(epoch, *(each["test"][network.task.called] for each in results))

    # Choose the batch, and with it the shapes to come.
    means, kept = map(execution.each, (jax.device_get(runs.state.means), runs.state.own))
    epoch_results.check(epoch, *(each.grad_variance for each in means))
    materialised = numbers_in(runs.state.variables["params"]) // len(trainers)
    choices, records, members = [], [], []
    for k, (trainer, own) in enumerate(zip(trainers, execution.members(runs), strict=True)):
        choice = epoch_results.choose(
            trainer, network, own.batch, batches[k], pruned[k].parameters, means[k]
        )
        record = epoch_results.record(
            trainer, epoch, batches[k], tallies[k], pruned[k], results[k], choice, materialised,
            spent[k],
        )  # fmt: skip
        record |= extensions.record(network, kept[k])
        choices.append(choice)
        records.append(record)
        members.append(
            dataclasses.replace(
                own,
                batch=choice.batch,
                memory_kib=(*own.memory_kib, record["memory_kib"]),
                best=min(own.best, (network.task.cost(results[k]["test"]), epoch)),
            )
        )
    runs = execution.end(execution.with_members(runs, members), pruned, choices)
    waited = programs.waited - waited_before
    clocks = {
        "seconds": (time.perf_counter() - began - waited) / len(trainers),
        "compile_seconds": waited / len(trainers),
        "compilations": programs.compilations,
    }
    return runs, [record | clocks for record in records]
