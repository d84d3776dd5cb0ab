"""`train`: nodes on a graph that train anybody's model on their own data, and exchange weights."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common import paths
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised import directory, initialisation
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.local_training import Examples, Learning, Node
from dynhp_jax.decentralised.placement import Placement
from dynhp_jax.decentralised.records import Record, records_of, sent_of
from dynhp_jax.decentralised.rounds import Rounds, Schedule, check_devices, nodes_at_once
from dynhp_jax.decentralised.scenarios import Presence
from dynhp_jax.decentralised.setting import Setting, check_correspond, check_whole, setting_of
from dynhp_jax.decentralised.units import numbers_held
from dynhp_jax.structure.groups import Keeps
from dynhp_jax.training import first_look

_JUDGED = 500  # test examples at once


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The nodes at the end of a run.

    Attributes:
      apply: `apply(variables, inputs) -> outputs`, of one node, for evaluation.
      variables: of all nodes, {'params': ..., and other collections}, arrays [nodes, ...].
      records: of every round; see `train`.
    """

    apply: Callable[[Any, Any], Any]
    variables: dict[str, Any]
    records: list[Record]

    def node(self, number: int) -> dict[str, Any]:
        """The variables of one node."""
        return jax.tree.map(lambda leaf: leaf[number], self.variables)


def train(
    model: Any,
    variables: Any = None,
    *,
    train: Any,
    test: Any,
    parts: Placement,
    mixing: Any,
    rounds: int,
    rule: Rule = DecAvg(),  # noqa: B008
    loss: str | Callable[[Any, Any], jax.Array] = "cross_entropy",
    metrics: Mapping[str, Any] | None = None,
    tx: optax.GradientTransformation | None = None,
    batch: int = 32,
    local_epochs: int = 5,
    seed: int = 0,
    gain: float | None = None,
    presence: Presence | None = None,
    keeps: Sequence[Keeps] | None = None,
    judge_every: int = 1,
    judged: int = 1_000,
    restart_optimizer: bool = True,
    local_statistics: bool = False,
    at_once: int | None = None,
    devices: int = 1,
    workdir: str | os.PathLike | None = None,
    callbacks: Iterable[Callable[[Record], Any]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Trains a network on every node of a graph, with an exchange of weights before each round.

    A round is: all nodes take the mean that the rule makes of the *old* weights, train on their own
    examples, and, in some rounds, are judged on the same test examples. All rounds are one compiled
    program, whatever the graph and whoever is there.

    Args:
      model, variables: as `dp.fit` takes them; the variables are those of one node.
      train, test: (inputs, targets), arrays or pytrees of arrays [examples, ...].
      parts: the numbers of the training examples that each node has; see `placement`.
      mixing: f64[nodes, nodes], whose rows sum to one, see `mixing_matrix`; or [rounds, nodes,
        nodes] where it changes.
      rounds: how many.
      rule: of aggregation.
      loss, metrics: as `dp.fit` takes them.
      tx: the optimizer; None for SGD of 0.001 with momentum 0.5 (2312.04504).
      batch: examples of a mini-batch; an epoch's last one has those that are left.
      local_epochs: between two exchanges.
      seed: of everything random.
      gain: None for the same initial variables on all nodes; a number for weights that each node
        draws itself, kernels multiplied by it: `initialisation_gain(mixing)`, or 1.
      presence: who is there, and who trains, in which round; None for everybody.
      keeps: of every node, {group: units that it has}: small networks in whole arrays; rules that
        know of units go with it, such as `Coverage()`. None: all have all.
      judge_every: rounds from one judging to the next; the last round is judged, on all examples.
      judged: so many of the first test examples before the last round.
      restart_optimizer: whether its state starts anew in every round, as in the published code.
      local_statistics: whether only parameters are exchanged, and not, say, batch statistics.
      at_once: nodes that are computed together: 0 for all, 1 for one after the other, or so many;
        None for what suits their size.
      devices: among which the nodes are divided; 0 for all.
      workdir: a directory for records and checkpoints, in which the same call goes on bit for bit.
      callbacks: each is called with the record of every round.
      stop: asked after every judging: whether to end there; the same call goes on in the workdir.

    Returns:
      The `Result`. A record has 'round', from 1; by node 'loss' (None for one that did not train),
      'alive' and 'bytes_sent'; and, of a round that is judged, 'test_examples' and by node
      'test_loss' and the metrics, such as 'test_error'.

    Raises:
      UserError: before the first round, for what cannot be trained; or where a node diverges.
    """
    setting = setting_of(
        model, variables, train, test, parts, mixing, rounds, rule, loss, metrics, presence, keeps,
        seed,
    )  # fmt: skip
    counts = {"batch": batch, "local_epochs": local_epochs, "judge_every": judge_every,
              "judged": judged}  # fmt: skip
    for name, value in counts.items():
        check_whole(name, value)
    if keeps is not None and gain is not None:
        check_correspond(setting)
    tx = optax.sgd(1e-3, momentum=0.5) if tx is None else tx
    first_look.check_optimizer(tx, "tx")
    if at_once is None:
        at_once = nodes_at_once(_bytes_of_node(setting, tx))
    check_whole("at_once", at_once, 0)
    chunk = min(_JUDGED, len(setting.pairs["test"]))
    learning = Learning(setting.source.functions, setting.task, tx, batch, local_epochs, chunk)
    devices = check_devices(devices, setting.nodes)
    program = Rounds(learning, rule, restart_optimizer, local_statistics, at_once, devices)
    options = (counts, rule, seed, gain, restart_optimizer, local_statistics)
    folder = None if workdir is None else paths.given(workdir, "workdir")
    callbacks = tuple(callbacks)
    with directory.held(folder, lambda: setting.digest(options)) as place:
        slots = judge_every if place or callbacks else rounds
        calls = Calls(setting, program, seed, gain, judge_every, judged, min(slots, rounds))
        records = calls.resume(place) if place else []
        for first, last in calls.left(len(records)):
            now = calls.advance(first, last)
            _check_finite(now, place)
            if place:
                place.add(now, calls.state)
            for record in now:
                records.append(record)
                for callback in callbacks:
                    callback(record)
            if stop():
                break
    return Result(setting.source.functions.evaluate, calls.state.variables, records)


class Calls:
    """A run as calls of its program: arrays on the device, and what is asked for round by round.

    Args:
      setting, program: of the run.
      seed, gain, judge_every, judged: as `train` takes them.
      slots: rounds of a call.

    Attributes:
      state: of all nodes, after the last call.
    """

    def __init__(
        self,
        setting: Setting,
        program: Rounds,
        seed: int,
        gain: float | None,
        judge_every: int,
        judged: int,
        slots: int,
    ):
        self._setting, self._slots = setting, slots
        self._key, self._nodes = jax.random.key(seed), _nodes(setting)
        self._data = _examples(setting, program.learning.judged)
        self._calendar = _calendar(setting, judge_every, judged)
        shared = setting.source.shapes
        units = setting.units
        if program.local_statistics:
            shared, units = {"params": shared["params"]}, units and {"params": units["params"]}
        numbers = numbers_held(shared, units, setting.nodes) * program.rule.sent
        self._sent = sent_of(setting.mixing, setting.presence, numbers)
        self._program = program.program()
        self.state = jax.jit(
            lambda variables, key, nodes: program.start(
                _initial(variables, key, setting.nodes, gain), nodes
            )
        )(dict(setting.source.variables), self._key, self._nodes)

    def resume(self, place: directory.RoundsDirectory) -> list[Record]:
        """Takes up the state that lies in a directory; gives the records up to it."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.state)
        found, records = place.begin(shapes)
        self.state = self.state if found is None else found
        return records

    def left(self, done: int) -> Iterator[tuple[int, int]]:
        """(first, last) round of the calls that are left; they end where an unbroken run's do."""
        while done < self._setting.rounds:
            last = min(self._setting.rounds, (done // self._slots + 1) * self._slots)
            yield done, last
            done = last

    def advance(self, first: int, last: int) -> list[Record]:
        """Does some rounds; gives their records."""
        setting = self._setting
        self.state, observed = self._program(
            self.state, self._key, self._nodes, self._data, self._schedule(first, last),
            np.int32(last - first),
        )  # fmt: skip
        return records_of(
            setting.task, observed, setting.presence, self._sent, self._calendar, first, last
        )

    def _schedule(self, first: int, last: int) -> Schedule:
        """What these rounds are, in all slots of a call."""

        def filled(array: np.ndarray) -> np.ndarray:
            some = array[first:last]
            short = self._slots - len(some)
            return np.concatenate([some, np.zeros((short, *some.shape[1:]), some.dtype)])

        matrix, presence = self._setting.mixing.astype(np.float32), self._setting.presence
        return Schedule(
            filled(matrix) if matrix.ndim == 3 else matrix,
            filled(presence.alive),
            filled(presence.trains),
            filled(self._calendar),
        )


def _initial(variables: Any, key: jax.Array, nodes: int, gain: float | None) -> Any:
    alike = initialisation.shared(jax.tree.map(jnp.asarray, variables), nodes)
    if gain is None:
        return alike
    own = key_for(key, "initial weights")
    params = initialisation.independent(variables["params"], own, nodes, gain)
    return {**alike, "params": params}


def _nodes(setting: Setting) -> Node:
    parts = setting.parts
    rows = np.zeros((len(parts), max(1, max(map(len, parts)))), np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    counts = np.array([len(part) for part in parts], np.int32)
    numbers = np.arange(len(parts), dtype=np.int32)
    return jax.tree.map(jnp.asarray, Node(numbers, rows, counts, setting.units))


def _examples(setting: Setting, chunk: int) -> Examples:
    """All data on the device, the test examples filled up to whole chunks."""
    train, test = setting.pairs["train"], setting.pairs["test"]
    short = -len(test) % chunk
    test = test.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[:1], short, 0)]))
    return jax.tree.map(
        jnp.asarray, Examples(train.inputs, train.targets, test.inputs, test.targets)
    )


def _calendar(setting: Setting, every: int, judged: int) -> np.ndarray:
    """On how many test examples the nodes are judged after each round, i32[rounds]."""
    everything = len(setting.pairs["test"])
    due = (np.arange(setting.rounds) + 1) % every == 0
    found = np.where(due, min(judged, everything), 0).astype(np.int32)
    found[-1] = everything
    return found


def _check_finite(records: list[Record], place: directory.RoundsDirectory | None) -> None:
    """Raises UserError where a node's loss is no longer a number."""
    for record in records:
        for number, value in enumerate(record["loss"]):
            if value is not None and not math.isfinite(value):
                where = f"; earlier rounds are in {place.path}" if place else ""
                raise UserError(
                    f"the loss of node {number} is {value} in round {record['round']}{where}; a"
                    " smaller learning rate may help"
                )


def _bytes_of_node(setting: Setting, tx: optax.GradientTransformation) -> int:
    shapes = setting.source.shapes
    held = jax.tree.leaves((shapes, jax.eval_shape(tx.init, shapes["params"])))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in held)
