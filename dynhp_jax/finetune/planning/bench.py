"""Where candidates of one task are composed, compiled and metered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dynhp_jax.common.tree_paths import Path
from dynhp_jax.finetune.calibration import calibrate
from dynhp_jax.finetune.compressed import WITH_STATE
from dynhp_jax.finetune.drawing import draw
from dynhp_jax.finetune.kernel_products import KernelReads
from dynhp_jax.finetune.planning import spending
from dynhp_jax.finetune.planning.estimate import Candidate, Estimate
from dynhp_jax.finetune.planning.step import Step, Task
from dynhp_jax.jaxprs.trace import abstract, trace


@dataclasses.dataclass(frozen=True)
class Made:
    """A candidate's step.

    Attributes:
      step: the function.
      compiled: its executable.
      factors: of what it stores, to start from; {} without.
      bytes: that the executable takes.
    """

    step: Step
    compiled: jax.stages.Compiled
    factors: Any
    bytes: int


class Bench:
    """See above.

    Args:
      task: what is trained.
      estimate: of it, which says how much room for rows there is.
      how: what is stored is decomposed.
      tried: whether executables may be run to meter them; see `spending.taken`.
    """

    def __init__(self, task: Task, estimate: Estimate, how: str, tried: bool):
        self._task, self._estimate, self._how, self.tried = task, estimate, how, tried

    def known(self, candidate: Candidate) -> int:
        """Bytes of the arguments of a candidate's step, which is not compiled."""
        known = spending.before_compiling(self._step(candidate))
        return sum(known[name] for name in spending.ARGUMENTS)

    def made(self, candidate: Candidate) -> Made:
        """A candidate, compiled."""
        step, factors = self._step(candidate), {}
        if candidate.setting.epsilon < 1:
            step, factors = self._decomposed(step)
        compiled = step.compiled()
        return Made(step, compiled, factors, spending.taken(compiled, self.tried).total)

    def _step(self, candidate: Candidate) -> Step:
        return Step(self._task, self._estimate.room(candidate.quotas), candidate.setting)

    def _decomposed(self, step: Step) -> tuple[Step, Any]:
        """With the ranks that one part of the mini-batch has, and its factors."""
        task, setting = self._task, step.setting
        few = task.examples // setting.parts
        inputs = jax.tree.map(lambda x: x[:few], task.inputs)
        rows = draw(jax.random.key(0), step.quotas)
        ranks, factors = calibrate(
            task.apply, task.variables, *inputs, paths=self._once(step.quotas),
            epsilon=setting.epsilon, how=self._how, rows=rows,
        )  # fmt: skip
        ranks = {path: each for path, each in ranks.items() if each}
        factors = {path: factors[path] for path in ranks} if self._how in WITH_STATE else {}
        found = dataclasses.replace(step, ranks=ranks, how=self._how, factors=abstract(factors))
        return found, factors

    def _once(self, paths: Mapping[Path, Any]) -> list[Path]:
        """Kernels that are read once and in no loop, so that what they read can be decomposed."""
        reads = KernelReads(trace(self._task.apply, self._task.variables, self._task.inputs)).reads
        return [path for path in paths if len(reads[path]) == 1 and not reads[path][0].loop]
