"""What the host makes of an epoch: which units are left, which batch is next, what is written down.

Plain functions of numbers that came back from the device; `loop` calls them for one run,
`sweep.team` for each of several that train side by side.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dynhp_jax.batch_size import rules
from dynhp_jax.common.errors import UserError
from dynhp_jax.gates import activity
from dynhp_jax.structure.counts import parameters_left
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import epoch_schedules, gate_removal
from dynhp_jax.training.run.trainer import Trainer
from dynhp_jax.training.step.evaluation import CONFUSION, LOSS
from dynhp_jax.training.step.state import Means, Tally

Record = dict[str, Any]


class Diverged(UserError):
    """A loss, a variance of gradients or a parameter is no longer a finite number.

    Attributes:
      epoch: in which it happened.
      members: which of several runs side by side it happened to, by their places.
    """

    def __init__(self, epoch: int, members: Sequence[int] = (0,)):
        self.epoch, self.members = epoch, tuple(members)
        what = "the loss, the variance of the gradients or a parameter"
        super().__init__(f"{what} became NaN or infinite in epoch {epoch}")


@dataclasses.dataclass(frozen=True, eq=False)
class Pruned:
    """What is left after an epoch.

    Attributes:
      rates: {group: f64[units]}, the share of observations in which each gate was open.
      masks: {group: f32[units]}, of the surviving units.
      parameters: of the surviving units, in number.
      prices: {group: f32[units]}, of every gate among the survivors (`gate_removal.prices`).
    """

    rates: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    parameters: int
    prices: Mapping[str, jax.Array]


def prune(
    trainer: Trainer,
    network: Network,
    epoch: int,
    batch: int,
    tally: Tally,
    masks: Mapping[str, np.ndarray],
) -> Pruned:
    """The units that stay: exact and at once, by masks.

    Args:
      trainer: the run's fixed part.
      network: as its arrays are.
      epoch: its number, from 1.
      batch: examples of a mini-batch in this epoch.
      tally: of the epoch, on the host.
      masks: of the units that were left before.
    """
    config, steps = trainer.config, trainer.examples // batch
    observations = steps * batch if config.gates.per_example else steps
    rates = activity.rates(tally.counts, observations)
    masks = gate_removal.masks_left(config, network.groups, epoch, rates, masks)
    # In the order of the network; pytrees come back in that of their keys.
    rates, masks = ({name: tree[name] for name in network.groups} for tree in (rates, masks))
    prices = gate_removal.prices(config, network.groups, masks)
    return Pruned(rates, masks, parameters_left(network.groups, masks), prices)


def of_split(task: Task, sums: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """What an evaluation comes to: the mean loss and the metrics, by their names in the task.

    Args:
      task: of the run.
      sums: of `evaluation.make_evaluation` over the whole split, on the host.
      examples: of the split.

    Returns:
      With 'confusion', i[classes, classes], of a classification: labels by row, predictions by
      column.
    """
    found = {task.called: float(sums[LOSS]) / examples, **task.results(sums["metrics"], examples)}
    return found | ({CONFUSION: sums[CONFUSION]} if CONFUSION in sums else {})


@dataclasses.dataclass(frozen=True)
class Choice:
    """The next mini-batch, and what it was chosen from.

    Attributes:
      grad_variance: ||S||_1, smoothed.
      loss: F, smoothed.
      wanted: what the rule asks for.
      batch: the exact batch; less than `wanted` where there is no room for it.
    """

    grad_variance: float
    loss: float
    wanted: int
    batch: int


def choose(
    trainer: Trainer, network: Network, batch: int, in_use: int, parameters: int, means: Means
) -> Choice:
    """The batch, from what the epoch's gradients were like and what the budget leaves.

    Args:
      trainer: the run's fixed part.
      network: as its arrays are.
      batch: the exact one so far.
      in_use: the one that the epoch was trained with.
      parameters: that survive.
      means: on the host.
    """
    grad_variance = max(0.0, float(means.grad_variance / means.weight))
    loss = means.loss if trainer.config.batch.loss == "total" else means.data_loss
    loss = max(0.0, float(loss / means.weight))
    room, wanted = trainer.meter.room(parameters), batch
    more = {
        "squared_norm": lambda: float(means.squared_norm / means.weight),
        "held": lambda: trainer.paper.memory_bytes(parameters, 0) / trainer.paper.example_bytes,
    }
    more = {name: more[name]() for name in rules.reads(trainer.controller)}
    times = trainer.examples // in_use if trainer.config.batch.every == "step" else 1
    for _ in range(times):
        before, wanted = (
            wanted,
            trainer.controller.update(wanted, grad_variance, loss, room, **more),
        )
        if wanted == before:  # nothing that the rule looks at changes any more
            break
    return Choice(grad_variance, loss, wanted, trainer.meter.capped(network, wanted))


def record(
    trainer: Trainer,
    epoch: int,
    batch: int,
    tally: Tally,
    pruned: Pruned,
    results: Mapping[str, Mapping[str, Any]],
    choice: Choice,
    materialised: int,
    spent: Mapping[str, Bytes],
) -> Record:
    """What metrics.jsonl says of an epoch, but for the time it took.

    Args:
      trainer: the run's fixed part.
      epoch: its number, from 1.
      batch: examples of its mini-batches.
      tally: its sums, on the host.
      pruned, choice: see there.
      results: of the evaluation, by split.
      materialised: parameters that the arrays hold.
      spent: bytes of its compiled programs, by XLA's count; {} where nobody counted.
    """

    def kib(size: int | None) -> float | None:
        return None if size is None else size / 1024

    config, steps, task = trainer.config, trainer.examples // batch, trainer.whole.task
    seen = task.results(tally.metrics, steps * batch)
    judged = [name for name in results["test"] if name != CONFUSION]
    allocated = max(map(step_bytes.total, spent.values())) if spent else None
    taken = trainer.meter.epoch_bytes(pruned.parameters, batch, allocated)
    written = {
        "epoch": epoch,
        "train_loss": tally.loss / steps,
        task.called: tally.data_loss / steps,
        "penalty": tally.penalty / steps,
        "learning_rate": config.optimizer.learning_rate * epoch_schedules.rate(config, epoch),
        "lam": epoch_schedules.lam(config, epoch),
        **{f"train_{name}": value for name, value in seen.items()},
        **{f"test_{name}": results["test"][name] for name in judged},
        "units": {name: int(mask.sum()) for name, mask in pruned.masks.items()},
        "active": {name: float(rate.sum()) for name, rate in pruned.rates.items()},
        "parameters": pruned.parameters,
        "materialised": materialised,
        "batch_size": batch,
        "wanted_batch": choice.wanted,
        "next_batch": choice.batch,
        "steps": steps,
        "grad_variance": choice.grad_variance,
        "smoothed_loss": choice.loss,
        "variance_ratio": choice.grad_variance / choice.loss if choice.loss else 0.0,
        "model_kib": trainer.paper.model_kib(pruned.parameters),
        "memory_kib": kib(taken),
        "allocated_kib": kib(allocated),
        "allocated": spent,
        "savings": list(trainer.steps.used.names),
        "device_peak_kib": kib(step_bytes.device_peak()),
        "budget_kib": kib(trainer.meter.budget_bytes),
    }
    if "validation" in results:
        written |= {f"validation_{name}": results["validation"][name] for name in judged}
    return written


def check(epoch: int, *found: float) -> None:
    """Raises Diverged if a number, of one run or of several side by side, is NaN or infinite."""
    diverged = [k for k, number in enumerate(found) if not math.isfinite(number)]
    if diverged:
        raise Diverged(epoch, diverged)


def on_host(tally: Tally) -> Tally:
    """A tally as Python numbers and NumPy arrays."""
    tally = jax.device_get(tally)
    return jax.tree.map(lambda leaf: leaf.item() if leaf.ndim == 0 else leaf, tally)
