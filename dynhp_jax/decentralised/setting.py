"""What a decentralised run is made of, checked and on the host, before its first round."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import Pairs, kind_of, pairs_of
from dynhp_jax.decentralised import scenarios
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.mixing import check_mixing, rounds_to_mix
from dynhp_jax.decentralised.placement import Placement
from dynhp_jax.decentralised.scenarios import Presence
from dynhp_jax.decentralised.units import units_of
from dynhp_jax.structure.groups import Keeps
from dynhp_jax.tasks.task import Task, task_of
from dynhp_jax.training import first_look
from dynhp_jax.training.model_sources import source_of
from dynhp_jax.training.own_model import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """Model, data, graph and scenario of a run.

    Attributes:
      source: the model, with the variables of one node.
      task: by which it is trained and judged.
      pairs: 'train' and 'test'.
      parts: the training examples of every node.
      mixing: f64[nodes, nodes], or of every round.
      presence: of every round.
      units: masks of what nodes have lost, () for nothing.
    """

    source: Source
    task: Task
    pairs: Mapping[str, Pairs]
    parts: Placement
    mixing: np.ndarray
    presence: Presence
    units: Any

    @property
    def nodes(self) -> int:
        """How many."""
        return len(self.parts)

    @property
    def rounds(self) -> int:
        """How many."""
        return len(self.presence.alive)

    def digest(self, options: Any) -> str:
        """Tells runs apart that must not go on from each other; what functions compute it cannot.

        Args:
          options: whatever else has to be the same, with a `repr` that says it. Rounds to come may
            be others: presence, and mixing where it changes, are left out.
        """
        whole, mixing = self.source, self.mixing
        shapes = [(str(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(whole.shapes)]
        reported = (self.task.called, list(self.task.metrics))
        found = hashlib.sha256(repr((shapes, reported, options)).encode())
        arrays = [leaf for pair in self.pairs.values() for leaf in pair.leaves]
        arrays += [*self.parts, *([mixing] if mixing.ndim == 2 else [])]
        arrays += jax.tree.leaves((self.units, whole.variables))
        for array in map(np.asarray, arrays):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def setting_of(
    model: Any,
    variables: Any,
    train: Any,
    test: Any,
    parts: Placement,
    mixing: Any,
    rounds: int,
    rule: Rule,
    loss: str | Callable[[Any, Any], jax.Array],
    metrics: Mapping[str, Any] | None,
    presence: Presence | None,
    keeps: Sequence[Keeps] | None,
    seed: int,
) -> Setting:
    """The setting of a person's arguments, see `run.train`.

    Raises:
      UserError: for what cannot be trained.
    """
    check_whole("rounds", rounds)
    pairs = {"train": pairs_of("train", train), "test": pairs_of("test", test)}
    whole = _source(model, variables, pairs, seed)
    task = _task(whole, pairs, loss, metrics)
    parts = _parts(parts, len(pairs["train"]))
    mixing = check_mixing(mixing, len(parts))
    if mixing.ndim == 3 and len(mixing) != rounds:
        raise UserError(f"mixing has {len(mixing)} rounds; allowed: one matrix, or {rounds}")
    presence = presence or scenarios.everybody(rounds, len(parts))
    presence = scenarios.check_presence(presence, rounds, len(parts))
    for number, part in enumerate(parts):
        if not part.size and presence.trains[:, number].any():
            raise UserError(
                f"node {number} of {len(parts)} has no example, there are {len(pairs['train'])} in"
                " all; take fewer nodes, or let it be a relay:"
                " scenarios.lose_data(presence, [node], at=0)"
            )
    units = _units(whole, keeps, len(parts), rule)
    return Setting(whole, task, pairs, parts, mixing, presence, units)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises UserError unless this is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UserError(f"{name} is {value!r}; allowed: a whole number, {least} or more")


def check_correspond(setting: Setting) -> None:
    """Raises UserError where nodes that draw their own weights have units of their own, too.

    Unit 3 of one node is another function than unit 3 of its neighbour until averaging has made
    them one, so their keeps say nothing of each other's.
    """
    mixing = setting.mixing if setting.mixing.ndim == 2 else setting.mixing[0]
    raise UserError(
        "nodes draw weights of their own (gain) and have units of their own (keeps), which"
        f" correspond only once {rounds_to_mix(mixing)} rounds have mixed the weights; train"
        " without keeps until then, or start with the same weights: gain=None"
    )


def _source(model: Any, variables: Any, pairs: Mapping[str, Pairs], seed: int) -> Source:
    kinds = {name: kind_of(each.example) for name, each in pairs.items()}
    if kinds["test"] != kinds["train"]:
        raise UserError(
            f"an example of test is {kinds['test']}, one of train is {kinds['train']}; bring both"
            " to one shape and type"
        )
    return source_of(model, variables, pairs["train"].first(2).inputs, seed)


def _task(whole: Source, pairs: Mapping[str, Pairs], loss: Any, metrics: Any) -> Task:
    task = task_of(loss, metrics)
    outputs = first_look.check_model(whole)
    first_look.check_task(task, outputs, pairs["train"].example.targets)
    for name, each in pairs.items():
        first_look.check_labels(task, outputs, name, each.targets)
    return task


def _parts(parts: Placement, examples: int) -> Placement:
    parts = [np.asarray(part) for part in parts]
    if not parts:
        raise UserError("parts is empty; allowed: the examples' numbers of one node or more")
    for number, part in enumerate(parts):
        whole = part.ndim == 1 and (part.dtype.kind in "iu" or not part.size)
        if not whole or part.size and (part.min() < 0 or part.max() >= examples):
            raise UserError(
                f"the examples of node {number} are {part.dtype}{list(part.shape)}; allowed: whole"
                f" numbers [examples], from 0 to {examples - 1}"
            )
    return parts


def _units(whole: Source, keeps: Sequence[Keeps] | None, nodes: int, rule: Rule) -> Any:
    if keeps is None:
        return ()
    if not rule.takes_units:
        raise UserError(
            f"nodes have units of their own (keeps), and {type(rule).__name__} averages whole"
            " networks; use Coverage(), or ZeroFilled() to count missing numbers as zeros"
        )
    if len(keeps) != nodes:
        raise UserError(f"keeps has {len(keeps)} entries; allowed: one for each of {nodes} nodes")
    try:
        return units_of(whole.shapes, whole.groups, keeps)
    except ValueError as error:
        raise UserError(f"keeps: {error}") from None
