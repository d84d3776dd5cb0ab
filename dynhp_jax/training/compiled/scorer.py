"""Scores inside a run's byte budget: chunk by chunk, of programs that are metered before they run.

How many examples are in a chunk is found as evaluation's chunk is (`Budget.chunk`): all of them if
they fit, which they always do without a budget; else as many as there is room for.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.byte_sizes import array_bytes, kib
from dynhp_jax.common.errors import ConfigError
from dynhp_jax.pruning.criteria import chunks, contract, score
from dynhp_jax.pruning.criteria.evidence import Criterion, Evidence
from dynhp_jax.training import criterion_check
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.budget import Budget
from dynhp_jax.training.compiled.step_bytes import Bytes
from dynhp_jax.training.network import Network
from dynhp_jax.training.step import devices


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """What there is to score, and beside which arrays.

    Attributes:
      network: that is scored.
      evidence: of it; arrays, or shapes in their place.
      state: the `TrainState` that waits meanwhile; arrays or shapes.
      copied: whether the evidence has variables of its own beside the state's.
    """

    network: Network
    evidence: Evidence
    state: Any
    copied: bool


class Scorer:
    """Scores by one criterion within a budget.

    Args:
      criterion: it.
      budget: of the run.
      called: how messages call the criterion; '' for `module:Class`.
    """

    def __init__(self, criterion: Criterion, budget: Budget, called: str = ""):
        self.criterion, self.called = criterion, called
        self._budget, self._steps = budget, budget.steps

    def scores(self, scored: Scored, chunk: int) -> tuple[dict[str, np.ndarray], Bytes]:
        """The scores, and the bytes of the largest program on the way to them.

        Args:
          scored: with arrays; inputs and labels are NumPy's, and sent when it is their turn.
          chunk: from `chunk`.

        Raises:
          UserError, ValueError: as `criteria.score`.
          Exceeded: a program takes more than the budget.
        """
        parts = self.bytes(scored, chunk)
        self._budget.check("scoring", parts)
        execute = functools.partial(self._execute, scored.network)
        scores = score.score(self.criterion, scored.evidence, self.called, chunk, execute)
        return scores, parts

    def chunk(self, scored: Scored, before: int) -> int:
        """How many examples are looked at at once: `before` if they fit.

        Raises:
          Exceeded: not even one fits, of which `check` would have told.
        """
        found = self._fitting(scored, before)
        if not found:
            self._budget.check("scoring by one example", self.bytes(scored, 1))
        return found

    def _fitting(self, scored: Scored, before: int) -> int:
        examples = scored.evidence.examples
        fixed = step_bytes.total(step_bytes.state_bytes(scored.state))
        if scored.copied:
            fixed += array_bytes(scored.evidence.variables)
        return self._budget.fitting_chunk(
            lambda chunk: step_bytes.total(self.bytes(scored, chunk)),
            fixed,
            chunks.even(examples, before),
            examples,
            functools.partial(chunks.even, examples),
        )

    def bytes(self, scored: Scored, chunk: int) -> Bytes:
        """Bytes of the largest program, by part."""
        found = []
        with contract.guarded(self.criterion, self.called):
            for piece, *arguments in chunks.calls(self.criterion, scored.evidence, chunk):
                program, seen = self._program(scored.network, piece, arguments), arguments[-1]
                what = (program, seen, scored.state, scored.copied, self._steps.tried)
                found.append(step_bytes.scoring_bytes(*what))
        return max(found, key=step_bytes.total)

    def check(self, network: Network, examples: int, copied: bool) -> int:
        """The chunk of a run that has not begun.

        Args:
          network: whole.
          examples: to score on.
          copied: whether units will be masked already when it scores, and a smaller copy is made.

        Raises:
          ConfigError: there is no room for any.
        """
        state = self._steps.state_shapes(network)

        def scored(examples: int) -> Scored:
            return Scored(
                network, criterion_check.seen_of(network, examples, self.criterion), state, copied
            )

        chunk = self._fitting(scored(examples), examples)
        if chunk:
            return chunk
        if isinstance(self.criterion, chunks.Summed):
            least = step_bytes.total(self.bytes(scored(examples), 1))
            allowed = f"which scoring by {self.called!r} takes of one example at a time"
        else:
            least = step_bytes.total(self.bytes(scored(examples), examples))
            allowed = f"which scoring by {self.called!r} takes of all {examples} examples at once"
            fewer = self._budget.fitting_chunk(
                lambda count: step_bytes.total(self.bytes(scored(count), count)),
                step_bytes.total(step_bytes.state_bytes(state)),
                examples,
                examples,
            )
            if fewer:
                allowed += f"; or config.scores.examples={fewer}"
        raise ConfigError(
            "memory.budget",
            self._steps.asked.memory.budget,
            f"at least {kib(least, up=True)}, {allowed}",
        )

    def _execute(self, network: Network, piece: chunks.Piece, *arguments: Any) -> Any:
        return self._program(network, piece, arguments)(*arguments[piece.statics :])

    def _program(
        self, network: Network, piece: chunks.Piece, arguments: Any
    ) -> jax.stages.Compiled:
        """Compiled for this very network: two of the same sizes may be of other units."""
        statics, given = arguments[: piece.statics], arguments[piece.statics :]
        examples = given[-1].examples
        donated = tuple(place - piece.statics for place in piece.donated)
        return self._steps.program(
            f"scoring {piece.name}",
            (network, *statics, examples, self._steps.used),
            lambda: devices.jitted(
                functools.partial(piece.function, *statics), self._steps.config.devices, donated
            ),
            *given,
        )
