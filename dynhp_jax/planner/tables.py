"""What training costs: seconds and joules of an epoch, and of a change, by model and node set.

>>> tables = matched(("L", "M"), ("gold", "silver"), time=(1.0, 0.8), energy=(1.0, 0.5))
>>> [(str(move.target), move.energy) for move in tables.moves(Pair("L", "gold"))]
[('L on gold', 1.0), ('M on silver', 0.5)]
>>> [str(move.target) for move in tables.moves(Pair("M", "silver"))]
['M on silver']
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dynhp_jax.common.errors import UserError, shown

_CELL = 1e-9  # of a cell: what is nearer to a grid line than this lies on it


class Pair(NamedTuple):
    """A model and the node set that trains it."""

    model: str
    nodes: str

    def __str__(self) -> str:
        return f"{self.model} on {self.nodes}"


class Move(NamedTuple):
    """What it costs to go on with a pair: the change, once, and every epoch.

    Attributes:
      target: the pair that trains next; the present one where nothing changes.
      change_time, change_energy: seconds and joules of the change.
      time, energy: seconds and joules of an epoch.
    """

    target: Pair
    change_time: float
    change_energy: float
    time: float
    energy: float


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """Seconds and joules, by model and node set; infinity forbids a pair or a change.

    Attributes:
      models, nodes: their names.
      time, energy: f64[models, nodes], of an epoch.
      change_time, change_energy: f64[models, nodes, models, nodes], from (model, nodes) to (model,
        nodes); of the change from a pair to itself they are 0.
      start: the pair that training begins with; None for the first model on the first node set.

    Raises:
      UserError: shapes that do not fit, negative values, NaN, an epoch that takes no energy, or a
        model that no allowed changes lead to from the start.
    """

    models: tuple[str, ...]
    nodes: tuple[str, ...]
    time: np.ndarray
    energy: np.ndarray
    change_time: np.ndarray
    change_energy: np.ndarray
    start: Pair | None = None

    def __post_init__(self):
        for name in ("models", "nodes"):
            names = tuple(getattr(self, name))
            if not names or len(set(names)) < len(names):
                raise UserError(f"{name} are {shown(names)}; allowed: one name or more, each once")
            object.__setattr__(self, name, names)
        pairs = len(self.models), len(self.nodes)
        for name in ("time", "energy", "change_time", "change_energy"):
            object.__setattr__(self, name, self._checked(name, pairs))
        if self.start is None:
            object.__setattr__(self, "start", Pair(self.models[0], self.nodes[0]))
        self._check_start()
        self._check_reached()

    def _checked(self, name: str, pairs: tuple[int, int]) -> np.ndarray:
        """The values of a table, f64."""
        try:
            values = np.array(getattr(self, name), np.float64)
        except (TypeError, ValueError):
            raise UserError(f"the table {name} is no array of numbers") from None
        wanted = pairs * 2 if name.startswith("change") else pairs
        if values.shape != wanted:
            raise UserError(f"the table {name} has the shape {values.shape}; allowed: {wanted}")
        lowest = "above 0" if name == "energy" else "0 or more"
        bad = ~(values > 0) if name == "energy" else ~(values >= 0)  # NaN is neither
        if bad.any():
            self._refuse(name, values, bad, f"{lowest}, and infinity for what is forbidden")
        if len(wanted) == 4:
            own = np.zeros(wanted, bool)
            own[np.ix_(*map(range, pairs))] = np.eye(math.prod(pairs), dtype=bool).reshape(wanted)
            if (values[own] != 0).any():
                self._refuse(name, values, own & (values != 0), "0 from a pair to itself")
        return values

    def _refuse(self, name: str, values: np.ndarray, bad: np.ndarray, allowed: str) -> None:
        place = tuple(np.argwhere(bad)[0])
        said = [Pair(self.models[m], self.nodes[n]) for m, n in zip(*[iter(place)] * 2)]  # noqa: B905
        raise UserError(
            f"the table {name} has {values[place]:g} for {' to '.join(map(str, said))}; allowed:"
            f" {allowed}"
        )

    def _check_start(self) -> None:
        if self.start not in self.places:
            raise UserError(f"the start is {shown(tuple(self.start))}; allowed: a pair of these")

    def _check_reached(self) -> None:
        reached, waiting = {self.start}, [self.start]
        while waiting:
            fresh = {move.target for move in self.moves(waiting.pop())} - reached
            reached |= fresh
            waiting += fresh
        there = {pair.model for pair in reached if self._runs(pair)}
        missing = [model for model in self.models if model not in there]
        if missing:
            raise UserError(
                f"no changes of finite time and energy lead from {self.start} to the model"
                f" {missing[0]!r}; allow one, or leave the model out"
            )

    @functools.cached_property
    def places(self) -> dict[Pair, tuple[int, int]]:
        """Where each pair stands in the tables."""
        return {
            Pair(model, nodes): (m, n)
            for m, model in enumerate(self.models)
            for n, nodes in enumerate(self.nodes)
        }

    def _runs(self, pair: Pair) -> bool:
        at = self.places[pair]
        return bool(np.isfinite(self.time[at]) and np.isfinite(self.energy[at]))

    def moves(self, pair: Pair) -> list[Move]:
        """What is allowed from a pair; from one that may not run only changes.

        Raises:
          UserError: there is no such pair.
        """
        if pair not in self.places:
            raise UserError(f"{shown(tuple(pair))} is no pair of these tables")
        found, here = [], self.places[pair]
        for target, there in self.places.items():
            costs = (
                self.change_time[here + there], self.change_energy[here + there],
                self.time[there], self.energy[there],
            )  # fmt: skip
            if all(map(math.isfinite, costs)):
                found.append(Move(target, *map(float, costs)))
        return found


def matched(
    models: Sequence[str],
    nodes: Sequence[str],
    *,
    time: Sequence[float],
    energy: Sequence[float],
    change_time: Any = 0.0,
    change_energy: Any = 0.0,
    back: bool = False,
) -> Tables:
    """Tables in which every model has a node set of its own (section VI of the paper).

    Args:
      models, nodes: as many of one as of the other, the largest model first.
      time, energy: of an epoch of each.
      change_time, change_energy: of a change, a number or [models, models].
      back: whether it may be undone; without, only later models follow.

    Returns:
      The tables.

    Raises:
      UserError: as `Tables`.
    """
    size = len(models)
    if len(nodes) != size:
        raise UserError(f"{len(nodes)} node sets for {size} models; allowed: one for each")
    alone = np.full((size, size), np.inf)
    found = []
    for values in (time, energy):
        each = alone.copy()
        np.fill_diagonal(each, values)
        found.append(each)
    allowed = np.ones((size, size), bool) if back else np.triu(np.ones((size, size), bool))
    for values in (change_time, change_energy):
        cost = np.where(allowed, np.broadcast_to(values, (size, size)), np.inf)
        np.fill_diagonal(cost, 0)
        each = np.full((size,) * 4, np.inf)
        at = np.arange(size)
        each[at[:, None], at[:, None], at, at] = cost
        pairs = np.arange(size * size)
        each.reshape(size * size, size * size)[pairs, pairs] = 0
        found.append(each)
    return Tables(tuple(models), tuple(nodes), *found)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The resolutions of the expanded graph.

    Attributes:
      loss: of losses, which are rounded up to multiples of it.
      time: of times in seconds; those of the tables are rounded up to multiples of it, once.
      bias: a plan on which more than this share of the loss's way is lost by rounding is refused,
        with the resolution to take.

    Raises:
      UserError: a resolution that is not above 0.
    """

    loss: float
    time: float
    bias: float = 0.1

    def __post_init__(self):
        for name in ("loss", "time", "bias"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and value > 0):
                raise UserError(f"the grid's {name} is {shown(value)}; allowed: a number above 0")

    def up(self, loss: float) -> float:
        """The loss at the next line of the grid.

        >>> Grid(0.1, 1.0).up(0.31), Grid(0.1, 1.0).up(0.1 * 3)
        (0.4, 0.30000000000000004)
        """
        return math.ceil(loss / self.loss - _CELL) * self.loss

    def units(self, seconds: float) -> int:
        """Seconds in whole units of the grid, rounded up."""
        return math.ceil(seconds / self.time - _CELL)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a plan has to meet.

    Attributes:
      loss: the target.
      time: the deadline in seconds, from the start of training.

    Raises:
      UserError: a target that is no number, or a deadline that is not above 0 and finite.
    """

    loss: float
    time: float

    def __post_init__(self):
        if not (isinstance(self.loss, int | float) and math.isfinite(self.loss)):
            raise UserError(f"the target is {shown(self.loss)}; allowed: a finite loss")
        if not (isinstance(self.time, int | float) and 0 < self.time < math.inf):
            raise UserError(f"the deadline is {shown(self.time)}; allowed: seconds, above 0")

    def met(self, loss: Any) -> Any:
        """Whether losses meet the target; rounding of the last digits aside."""
        return loss <= self.loss + _CELL * max(1.0, abs(self.loss))
