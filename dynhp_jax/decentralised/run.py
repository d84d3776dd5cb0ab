"""`train`: nodes on a graph that train anybody's model on their own data, and exchange weights."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from dynhp_jax.common import paths, processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised import devices as places
from dynhp_jax.decentralised import directory
from dynhp_jax.decentralised.aggregation.decavg import DecAvg
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.calls import Calls
from dynhp_jax.decentralised.local_training import Learning
from dynhp_jax.decentralised.placement import Placement
from dynhp_jax.decentralised.records import Record
from dynhp_jax.decentralised.rounds import Rounds, nodes_at_once
from dynhp_jax.decentralised.scenarios import Presence
from dynhp_jax.decentralised.setting import Setting, check_correspond, check_whole, setting_of
from dynhp_jax.structure.groups import Keeps
from dynhp_jax.training import first_look

JUDGED = 500  # test examples at once


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The nodes at the end of a run.

    Attributes:
      apply: `apply(variables, inputs) -> outputs`, of one node, for evaluation.
      variables: {'params': ..., and other collections}, arrays [nodes, ...]; where several
        processes train, of the nodes that this one has.
      records: of every round; see `train`.
      numbers: int[nodes], of the nodes that `variables` has: all of them in one process.
    """

    apply: Callable[[Any, Any], Any]
    variables: dict[str, Any]
    records: list[Record]
    numbers: np.ndarray

    def node(self, number: int) -> dict[str, Any]:
        """The variables of one node.

        Raises:
          UserError: this process does not have it.
        """
        where = np.flatnonzero(self.numbers == number)
        if not where.size:
            raise UserError(f"node {number} is not here; allowed: {self.numbers.tolist()}")
        return jax.tree.map(lambda leaf: leaf[where[0]], self.variables)


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
      devices: of each process, among which the nodes are divided; 0 for all. Several processes that
        called `jax.distributed.initialize` and then do the same are one run, each with its part of
        the nodes; process 0 calls the callbacks.
      workdir: a directory for records and checkpoints, in which the same call goes on bit for bit.
      callbacks: each is called with the record of every round.
      stop: asked after every judging: whether to end there; the same call goes on in the workdir.
        One process that says so ends all of them.

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
    chunk = min(JUDGED, len(setting.pairs["test"]))
    learning = Learning(setting.source.functions, setting.task, tx, batch, local_epochs, chunk)
    devices = places.check_devices(devices, setting.nodes)
    program = Rounds(learning, rule, restart_optimizer, local_statistics, at_once, devices)
    options = (counts, rule, seed, gain, restart_optimizer, local_statistics)
    folder = None if workdir is None else paths.given(workdir, "workdir")
    callbacks = tuple(callbacks)
    slots = min(rounds, judge_every if folder or callbacks else rounds)
    if processes.several():
        same = {"data, nodes, weights or options": setting.digest(options), "rounds": rounds,
                "rounds of a call": slots, "devices": devices}  # fmt: skip
        processes.check_same("before training", same)
    held = directory.held(folder, lambda: setting.digest(options))
    with processes.noticing_losses(), held as place:
        calls = Calls(setting, program, seed, gain, judge_every, judged, slots)
        records = calls.resume(place) if place else []
        for first, last in calls.left(len(records)):
            now = calls.advance(first, last)
            check_finite(now, place)
            if place:
                place.add(now, calls.state)
            records += now
            with processes.together(f"after round {last}") as meeting:
                for record, callback in itertools.product(now, callbacks):
                    if processes.leads():
                        callback(record)
                meeting.said["stop"] = bool(stop())
            if any(said["stop"] for said in meeting.heard):
                break
    mine = places.of_here(calls.state.variables)
    numbers = places.here(setting.nodes, devices)
    return Result(setting.source.functions.evaluate, mine, records, numbers)


def check_finite(records: list[Record], place: directory.RoundsDirectory | None) -> None:
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
