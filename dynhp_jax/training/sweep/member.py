"""A member of a sweep, without its arrays: what is its own, and when it would change shapes alone.

In a sweep all members' arrays have one size and nothing is compiled ahead, so no member needs a
plan to wait for. But a single run takes a larger mini-batch only when its plan is due, and one plan
at a time: while smaller arrays wait, the mini-batch stays. So each member keeps book of the shapes
that it would have alone (`SoloShapes`) and has the plans made that its single run makes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import shape_plans
from dynhp_jax.training.run.run import (
    Plan,
    keeps_of,
    lists_of,
)
from dynhp_jax.training.run.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class SoloShapes:
    """The shapes that a member would have as a single run; those of its mini-batches are in force.

    Attributes:
      epoch: epochs done.
      batch_in_use: the mini-batch, on the grid.
      network: sizes that its arrays would have.
      keeps: which units they would hold, of the whole network.
      plan: shapes that it would be waiting for.
    """

    epoch: int
    batch_in_use: int
    network: Network
    keeps: UnitKeeps
    plan: Plan | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, without the epoch, which is the checkpoint's."""
        return {
            "batch_in_use": self.batch_in_use,
            "keeps": lists_of(self.keeps),
            "plan": self.plan and self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, trainer: Trainer, epoch: int, values: Mapping[str, Any]) -> "SoloShapes":
        """The inverse of `to_dict`."""
        whole, plan = trainer.whole, values["plan"]
        keeps = keeps_of(values["keeps"], whole.groups)
        plan = plan and Plan.from_dict(plan, whole.groups)
        return cls(epoch, values["batch_in_use"], whole.part(keeps), keeps, plan)


def carry_out(trainer: Trainer, alone: SoloShapes) -> SoloShapes:
    """With the shapes of its plan, if that is due in the epoch that starts."""
    plan = alone.plan
    if plan is None or alone.epoch + 1 < plan.due:
        return alone
    network = alone.network
    if any(plan.keeps[name].size < alone.keeps[name].size for name in plan.keeps):
        network = trainer.whole.part(plan.keeps)
    in_use = trainer.meter.fit(network, plan.wanted)[1]
    return SoloShapes(alone.epoch, in_use, network, plan.keeps)


def after_epoch(trainer: Trainer, alone: SoloShapes, left: UnitKeeps, wanted: int) -> SoloShapes:
    """One epoch later, with the plan that the single run would make.

    Args:
      trainer: the member's fixed part.
      alone: before.
      left: the surviving units, of the whole network.
      wanted: the mini-batch that the rule asks for.
    """
    alone = dataclasses.replace(alone, epoch=alone.epoch + 1)
    if alone.plan is not None:
        return alone
    masks = {
        name: np.isin(kept, left[name]).astype(np.float32) for name, kept in alone.keeps.items()
    }
    return dataclasses.replace(alone, plan=shape_plans.next_plan(trainer, alone, masks, wanted))


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One run among several, without its arrays.

    Attributes:
      batch: the controller's exact mini-batch.
      keeps: which units of the whole network its arrays hold, {group: sorted indices}.
      alone: the shapes that it would have as a single run; its mini-batch is that one's.
      memory_kib: of every epoch so far, by the paper's meter.
      best: (test error in percent, epoch) of the best epoch so far.
    """

    batch: int
    keeps: UnitKeeps
    alone: SoloShapes
    memory_kib: tuple[float, ...] = ()
    best: tuple[float, int] = (float("inf"), 0)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.alone.epoch

    @property
    def batch_in_use(self) -> int:
        """The mini-batch, on the grid."""
        return self.alone.batch_in_use

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, without the epoch, which is the checkpoint's."""
        return {
            "batch": self.batch,
            "keeps": lists_of(self.keeps),
            "alone": self.alone.to_dict(),
            "memory_kib": list(self.memory_kib),
            "best": list(self.best),
        }

    @classmethod
    def from_dict(cls, trainer: Trainer, epoch: int, values: Mapping[str, Any]) -> "Member":
        """The inverse of `to_dict`."""
        return cls(
            values["batch"],
            keeps_of(values["keeps"], trainer.whole.groups),
            SoloShapes.from_dict(trainer, epoch, values["alone"]),
            tuple(values["memory_kib"]),
            tuple(values["best"]),
        )
