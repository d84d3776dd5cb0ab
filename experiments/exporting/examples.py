"""Whole examples of a run, to compare and to calibrate by."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dynhp_jax.structure.keeps import UnitKeeps
from dynhp_jax.tasks.task import Task
from dynhp_jax.training.run.trainer import Trainer


def first(trainer: Trainer, count: int) -> Mapping[str, tuple[Any, Any]]:
    """(inputs, targets) of the first examples of every split, as the whole network reads them."""

    def of(split: Any) -> tuple[Any, Any]:
        few = split if hasattr(split, "inputs") else next(split.chunks(None, count))
        cut = jax.tree.map(lambda leaf: np.asarray(leaf[:count]), (few.inputs, few.targets))
        return cut

    return {name: of(split) for name, split in trainer.splits(UnitKeeps({}, {})).items()}


def judged(task: Task, outputs: Any, targets: Any) -> float:
    """What says which epoch is best, of some outputs."""
    count = len(jax.tree.leaves(targets)[0])
    if task.best == task.called:
        return float(np.mean(task.loss(outputs, targets)))
    return float(task.results(task.sums(outputs, targets, None), count)[task.best])
