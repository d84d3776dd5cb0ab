"""Where a run stands between two epochs."""

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynhp_jax.common import schema
from dynhp_jax.structure.keeps import Keeps, UnitKeeps
from dynhp_jax.training.network import Network
from dynhp_jax.training.run.examples import Split
from dynhp_jax.training.step.state import StepInputs, TrainState

# Of what JSON holds.
_UNITS = schema.rising(schema.WHOLE, "in rising order")
KEEPS = schema.mapping_of(_UNITS)
PLAN = schema.fields({"due": schema.POSITIVE, "keeps": KEEPS, "wanted": schema.POSITIVE})
BEST = schema.tuple_of(schema.NUMBER, schema.POSITIVE)
MEMORY = schema.list_of(schema.NOT_NEGATIVE, 1)  # of every epoch


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Shapes that a run will take.

    Attributes:
      due: the first epoch with these shapes.
      keeps: which units the arrays will hold, of the whole network.
      wanted: the mini-batch that the rule asked for when the plan was made.
      work: what the background thread does for it; None if it has yet to be told.
    """

    due: int
    keeps: UnitKeeps
    wanted: int
    work: concurrent.futures.Future | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, without the work."""
        return {"due": self.due, "keeps": lists_of(self.keeps), "wanted": self.wanted}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], groups: Mapping[str, Any]) -> "Plan":
        """The inverse of `to_dict`; the groups are those of the whole network."""
        return cls(values["due"], keeps_of(values["keeps"], groups), values["wanted"])


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Where a run stands between two epochs.

    Attributes:
      epoch: epochs done.
      batch: the controller's exact mini-batch.
      batch_in_use: the mini-batch that is compiled.
      chunk: examples that are evaluated at once.
      network: sizes of the arrays, and the groups in them.
      keeps: which units of the whole network the arrays hold, {group: sorted indices}.
      state: the arrays; `advance` consumes them.
      given: what steps read beside it; as long as the network stays the same, only the prices
        of the gates change.
      splits: 'train', 'test' and, if some of it is held out, 'validation'.
      earlier: variables as they were evaluated before the last epoch, before the one before it,
        ..., as many as the criterion looks at; in host memory, of the shapes of the state's.
      memory_kib: of every epoch so far, by the run's meter.
      best: (`Task.cost` on the test set, epoch) of the best epoch so far.
      plan: shapes that are being compiled, to be taken later; see `shape_plans`.
      score_chunk: examples that a criterion looks at at once; 0 without a criterion.
      spent: bytes of what was executed since the last epoch ended, by kind and part.
    """

    epoch: int
    batch: int
    batch_in_use: int
    chunk: int
    network: Network
    keeps: UnitKeeps
    state: TrainState
    given: StepInputs
    splits: Mapping[str, Split]
    earlier: tuple[Any, ...] = ()
    memory_kib: tuple[float, ...] = ()
    best: tuple[float, int] = (float("inf"), 0)
    plan: Plan | None = None
    score_chunk: int = 0
    spent: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)


def keeps_of(lists: Mapping[str, Sequence[int]], groups: Mapping[str, Any]) -> UnitKeeps:
    """Keeps, counted in these groups, from what JSON holds of them."""
    return UnitKeeps({name: np.asarray(kept, np.int64) for name, kept in lists.items()}, groups)


def lists_of(keeps: Keeps) -> dict[str, list[int]]:
    """Keeps as JSON holds them; the inverse of `keeps_of`."""
    return {name: kept.tolist() for name, kept in keeps.items()}


def check_keeps(lists: Mapping[str, Sequence[int]], groups: Mapping[str, Any]) -> None:
    """Raises schema.Unfit unless lists that are KEEPS name units of these groups, some of each."""
    if lists.keys() != groups.keys():
        raise schema.Unfit(f"its keeps are not of the groups {', '.join(groups)}")
    for name, kept in lists.items():
        if not kept or kept[-1] >= groups[name].size:
            raise schema.Unfit(f"its keeps.{name} are not among {groups[name].size} units")
