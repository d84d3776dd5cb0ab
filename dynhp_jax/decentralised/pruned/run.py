"""`train_pruned`: nodes that prune themselves inside their byte budgets, and exchange what is left.

Between two rounds the host decides which units every node has; the rounds themselves are compiled,
one program for the exchange and one for the nodes of about the same size.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynhp_jax.common import paths, processes
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised import directory
from dynhp_jax.decentralised.aggregation.coverage import Coverage
from dynhp_jax.decentralised.aggregation.rule import Rule
from dynhp_jax.decentralised.calls import calendar_of, examples_of, initial_of, nodes_of
from dynhp_jax.decentralised.mixing import rounds_to_mix
from dynhp_jax.decentralised.placement import Placement
from dynhp_jax.decentralised.pruned import exchange, gating
from dynhp_jax.decentralised.pruned.budgets import Budget, bytes_of_nodes
from dynhp_jax.decentralised.pruned.bytes_held import BytesHeld
from dynhp_jax.decentralised.pruned.choices.agreed import Agreed
from dynhp_jax.decentralised.pruned.choices.choice import Choice
from dynhp_jax.decentralised.pruned.fleet import Fleet
from dynhp_jax.decentralised.pruned.gating import Gating
from dynhp_jax.decentralised.pruned.node_program import Programs, Weights
from dynhp_jax.decentralised.pruned.stacks import masks_of
from dynhp_jax.decentralised.records import Record, records_of
from dynhp_jax.decentralised.rounds import Observed
from dynhp_jax.decentralised.run import JUDGED, check_finite
from dynhp_jax.decentralised.scenarios import Presence
from dynhp_jax.decentralised.setting import Setting, check_whole, setting_of
from dynhp_jax.gates.gated import gated
from dynhp_jax.structure.keeps import UnitKeeps, UnitMasks
from dynhp_jax.surgery.cut import cut
from dynhp_jax.training import first_look
from dynhp_jax.training.network import Network, whole_network
from dynhp_jax.training.own_model import OwnModel


@dataclasses.dataclass(frozen=True, eq=False)
class PrunedResult:
    """The nodes at the end of a run.

    Attributes:
      network: whole, with the groups whose units were pruned.
      variables: of all nodes, in whole arrays [nodes, ...] with zeros where a node has nothing.
      log_alpha: the gates' parameters, {group: f32[nodes, units]}; {} without gates.
      alive: {group: f32[nodes, units]}, one for a unit that the node has.
      records: of every round; see `train_pruned`.
      compilations: programs of nodes that were compiled.
    """

    network: Network
    variables: dict[str, Any]
    log_alpha: dict[str, Any]
    alive: dict[str, np.ndarray]
    records: list[Record]
    compilations: int

    def keeps(self, number: int) -> UnitKeeps:
        """The units of a node."""
        return UnitMasks({name: mask[number] for name, mask in self.alive.items()}).keeps()

    def node(self, number: int) -> tuple[Callable[[Any, Any], Any], dict[str, Any]]:
        """(apply, variables) of a node in arrays of really its sizes, its gates settled.

        Inputs may be whole, also where the node lost some of them.
        """
        keeps, groups = self.keeps(number), self.network.groups
        small = cut(jax.tree.map(lambda leaf: leaf[number], self.variables), groups, keeps)
        part = self.network.part(keeps)
        log_alpha = {name: jnp.asarray(value[number])[keeps[name]]
                     for name, value in self.log_alpha.items()}  # fmt: skip
        ones = {name: jnp.ones(keep.size) for name, keep in keeps.items()}
        gates = gating.settled(log_alpha, ones, bool(log_alpha))
        apply = gated(part.evaluate, part.groups)

        def evaluate(variables: Any, inputs: Any) -> Any:
            return apply(variables, gates, self.network.cut_inputs(inputs, keeps))

        return evaluate, small


def train_pruned(
    model: Any,
    variables: Any = None,
    *,
    train: Any,
    test: Any,
    parts: Placement,
    mixing: Any,
    rounds: int,
    budgets: Sequence[Budget] | Budget = None,
    choice: Choice = Agreed(),  # noqa: B008
    gates: Gating = Gating(),  # noqa: B008
    rule: Rule = Coverage(),  # noqa: B008
    meter: str = "compiled",
    inputs: bool = False,
    start: int = 0,
    classes: int = 4,
    loss: str | Callable[[Any, Any], jax.Array] = "cross_entropy",
    metrics: Mapping[str, Any] | None = None,
    tx: optax.GradientTransformation | None = None,
    batch: int = 32,
    least_batch: int | None = None,
    local_epochs: int = 5,
    seed: int = 0,
    gain: float | None = None,
    presence: Presence | None = None,
    judge_every: int = 1,
    judged: int = 1_000,
    at_once: int | None = None,
    workdir: str | os.PathLike | None = None,
    callbacks: Iterable[Callable[[Record], Any]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> PrunedResult:
    """Trains a network on every node of a graph; each prunes it inside a byte budget of its own.

    A round is: all nodes average what they share with their neighbours, prune themselves, train on
    their own examples, and, in some rounds, are judged. A node without room for the whole network
    is pruned before the first round.

    Args:
      model, variables, train, test, parts, mixing, rounds, loss, metrics, batch, local_epochs,
        seed, gain, presence, judge_every, judged, at_once, workdir, callbacks, stop: as
        `decentralised.train` takes them. The optimizer's state starts anew in every round.
      budgets: bytes of every node, or of each alike: a number, text such as '2MiB', '50%' of
        what the whole network takes with `batch`, or None for any; see `meter`.
      choice: which units a node keeps: `Agreed()`, `Own()`, `Prefix()`, `Rolling()`, `Scored()`.
      gates: of the choices that have gates.
      rule: of aggregation; one that knows of units.
      meter: 'compiled': what a training step of one node in arrays of its own sizes allocates;
        'paper': 4 bytes for every parameter and every number of the mini-batch's inputs.
      inputs: whether units of the inputs may go, too.
      start: rounds before any unit goes. Until then no budget holds.
      classes: nodes of about the same size are computed as one stack; so many stacks of each
        mini-batch at most. 0: all in whole arrays (masked), which saves no work.
      tx: the optimizer of the weights; None for SGD of 0.001 with momentum 0.5.
      least_batch: the smallest mini-batch that has to fit a budget: a node of which `batch` does
        not fit takes a half, a quarter, ... of it. None: `batch` has to.

    Returns:
      The `PrunedResult`. A record has what those of `train` have and, by node, 'bytes_held' (by the
      meter), 'bytes_sent' (own arrays, to every neighbour), 'bytes_sent_shared' (only what the
      receiver has, too), 'parameters', 'batch', and 'units', {group: [nodes]}. Bytes that are sent
      are those of the round's exchange, all others those of its training.

    Raises:
      UserError: before the first round, for what cannot be trained: a budget that holds nothing, or
        pruning of nodes with weights of their own (`gain`) before `start` rounds have mixed them.
    """
    if processes.several():
        raise UserError("nodes that prune themselves are trained by one process, here are several")
    setting = setting_of(
        model, variables, train, test, parts, mixing, rounds, rule, loss, metrics, presence, None,
        seed,
    )  # fmt: skip
    least = batch if least_batch is None else least_batch
    counts = {"batch": batch, "local_epochs": local_epochs, "judge_every": judge_every,
              "judged": judged, "least_batch": least}  # fmt: skip
    for name, value in counts.items():
        check_whole(name, value)
    check_whole("start", start, 0)
    check_whole("classes", classes, 0)
    _check_rule(rule)
    _check_mixed(setting, gain, start)
    if least > batch:
        raise UserError(f"least_batch is {least}; allowed: 1 to {batch}, the batch")
    tx = optax.sgd(1e-3, momentum=0.5) if tx is None else tx
    first_look.check_optimizer(tx, "tx")
    network = _network(setting, inputs)
    own_gates = gates if choice.gated else None
    chunk = min(JUDGED, len(setting.pairs["test"]))
    programs = Programs(network, own_gates, tx, local_epochs, chunk, at_once)
    held = BytesHeld(meter, network.groups, _example_bytes(network), programs.step_bytes)
    limits = bytes_of_nodes(budgets, setting.nodes, held, batch)
    fleet = Fleet(network, choice, own_gates, held, limits, least, batch, classes)
    run = _Run(setting, programs, fleet, rule, start, seed, gain, judge_every, judged)
    options = (counts, rule, seed, gain, choice, own_gates, meter, inputs, start, classes,
               fleet.budgets)  # fmt: skip
    folder = None if workdir is None else paths.given(workdir, "workdir")
    records: list[Record] = []
    with directory.held(folder, lambda: setting.digest(options)) as place:
        if place:
            records = run.resume(place)
        waiting: list[Record] = []
        for number in range(len(records), rounds):
            record = run.advance(number)
            check_finite([record], place)
            waiting.append(record)
            due = (number + 1) % judge_every == 0 or number + 1 == rounds
            if place and due:
                place.add(waiting, run.state)
                waiting = []
            records.append(record)
            for callback in callbacks:
                callback(record)
            if due and stop():
                break
    alive = run.alive
    return PrunedResult(network, *run.weights, alive, records, programs.compiled)


class _Run:
    """What changes from round to round, and the programs that change it."""

    def __init__(
        self,
        setting: Setting,
        programs: Programs,
        fleet: Fleet,
        rule: Rule,
        start: int,
        seed: int,
        gain: float | None,
        judge_every: int,
        judged: int,
    ):
        self._setting, self._programs, self._fleet = setting, programs, fleet
        self._start, self._key = start, jax.random.key(seed)
        self._nodes = nodes_of(setting)
        self._data = jax.tree.map(jnp.asarray, examples_of(setting, programs.judged))
        self._calendar = calendar_of(setting, judge_every, judged)
        groups = fleet.groups
        self._first = jax.tree.map(jnp.asarray, dict(setting.source.variables))
        self._exchange = jax.jit(
            functools.partial(exchange.exchanged, rule, groups, fleet.choice.averaged),
            donate_argnums=0,
        )
        self._masked = jax.jit(
            lambda weights, alive: weights._replace(
                variables=exchange.without_dead(groups, weights.variables, alive)
            ),
            donate_argnums=0,
        )
        self._masks = jax.jit(lambda alive: masks_of(groups, _stacked(setting), alive))
        variables = jax.jit(initial_of, static_argnums=(2, 3))(
            self._first, self._key, setting.nodes, gain
        )
        copied = jax.tree.map(jnp.array, variables)
        self.weights = Weights(copied, fleet.gates(key_for(self._key, "gates")))
        self.alive, self.known = fleet.all_units(), fleet.all_units()
        self._prune(0, setting.presence.alive[0] | True) if start == 0 else self._check_budgets()

    @property
    def state(self) -> Any:
        """All that a checkpoint has to have."""
        return {"weights": self.weights, "alive": self.alive, "known": self.known}

    def resume(self, place: directory.RoundsDirectory) -> list[Record]:
        """Takes up the state that lies in a directory; gives the records up to it."""
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), jax.tree.map(jnp.asarray, self.state)
        )
        found, records = place.begin(shapes)
        if found is not None:
            self.weights = Weights(*found["weights"])
            self.alive, self.known = (
                {name: np.array(mask) for name, mask in found[part].items()}
                for part in ("alive", "known")
            )
        return records

    def advance(self, number: int) -> Record:
        """Does a round; gives its record."""
        setting, fleet = self._setting, self._fleet
        there, trains = setting.presence.alive[number], setting.presence.trains[number]
        mixing = setting.mixing if setting.mixing.ndim == 2 else setting.mixing[number]
        heard, before = self._sent(mixing, there), self.alive
        prunes = number >= self._start
        if prunes and fleet.choice.returns:
            self.alive = fleet.pruned(before, number, self.weights, there, self._examples_of)
        self.weights = self._exchange(
            self.weights, before, self.alive, self._first, np.float32(mixing), there
        )
        if prunes and not fleet.choice.returns and number:
            self._prune(number, there)
        batches = fleet.batches(self.alive)
        key = jax.random.fold_in(key_for(self._key, "train"), number)
        losses, sums = {}, {}
        for each, here in fleet.stacks(self.alive, batches, self._nodes, trains & there):
            count = np.int32(self._calendar[number])
            self.weights, loss, found = self._programs.of(each)(
                self.weights, here, key, self._data, count
            )
            losses[each.nodes], sums[each.nodes] = jax.device_get((loss, found))
        self.weights = self._masked(self.weights, self.alive)
        observed = Observed(_joined(losses)[None], jax.tree.map(lambda x: x[None], _joined(sums)))
        zeros = np.zeros((setting.rounds, setting.nodes), int)
        (record,) = records_of(
            setting.task, observed, setting.presence, zeros, self._calendar, number, number + 1
        )
        return {**record, **heard, **self._held(batches)}

    def _prune(self, number: int, there: np.ndarray) -> None:
        self.alive = self._fleet.pruned(self.alive, number, self.weights, there, self._examples_of)
        self.weights = self._masked(self.weights, self.alive)

    def _check_budgets(self) -> None:
        """What cannot be pruned later is said now."""
        everybody = np.ones(self._setting.nodes, bool)
        self._fleet.pruned(self.alive, 0, self.weights, everybody, self._examples_of)

    def _sent(self, mixing: np.ndarray, there: np.ndarray) -> dict[str, list[int]]:
        fleet, shapes = self._fleet, self._setting.source.shapes
        masks = jax.device_get(self._masks(self.alive))
        shared = exchange.numbers_shared(shapes, masks, self.alive, fleet.choice.averaged)
        changed = np.any(
            [(self.alive[name] != self.known[name]).any(1) for name in self.alive], axis=0
        )
        own, both = exchange.sent(mixing, there, shared, changed & there, fleet.unit_bytes())
        self.known = {
            name: np.where(there[:, None], mask, self.known[name])
            for name, mask in self.alive.items()
        }
        return {"bytes_sent": own.tolist(), "bytes_sent_shared": both.tolist()}

    def _held(self, batches: list[int]) -> dict[str, Any]:
        fleet, nodes = self._fleet, range(self._setting.nodes)
        keeps = [fleet.keeps(self.alive, node) for node in nodes]
        shapes = {"params": self._setting.source.shapes["params"]}
        masks = {"params": jax.device_get(self._masks(self.alive))["params"]}
        parameters = np.diag(exchange.numbers_shared(shapes, masks, self.alive, False))
        return {
            "bytes_held": [fleet.held.of(keeps[node], batches[node]) for node in nodes],
            "parameters": parameters.tolist(),
            "batch": batches,
            "units": {name: mask.sum(1).astype(int).tolist() for name, mask in self.alive.items()},
        }

    def _examples_of(self, node: int, most: int) -> tuple[Any, Any]:
        rows = self._nodes.rows[node][: min(most, max(1, int(self._nodes.count[node])))]
        return jax.tree.map(lambda leaf: leaf[rows], (self._data.inputs, self._data.targets))


def _joined(by_nodes: dict[tuple[int, ...], Any]) -> Any:
    """What was found of the nodes of every class, in the order of the nodes."""
    order = np.argsort([node for nodes in by_nodes for node in nodes])
    return jax.tree.map(lambda *each: np.concatenate(each)[order], *by_nodes.values())


def _stacked(setting: Setting) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((setting.nodes, *leaf.shape), leaf.dtype),
        setting.source.shapes,
    )


def _network(setting: Setting, inputs: bool) -> Network:
    source = setting.source
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        setting.pairs["train"].targets,
    )
    found = whole_network(OwnModel(source), (), inputs, setting.task, target, source.groups)
    if not len(found.groups):
        raise UserError("the model has no units that can be cut one by one, so nodes cannot prune"
                        " it; see dp.find_groups(...).describe()")  # fmt: skip
    return found


def _example_bytes(network: Network) -> int:
    return 4 * sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(network.model.example))


def _check_rule(rule: Rule) -> None:
    if not rule.takes_units or rule.needs_evidence:
        raise UserError(
            f"nodes come to have different units, which {type(rule).__name__} does not average;"
            " use Coverage(), DecDiff(), or ZeroFilled() to count missing numbers as zeros"
        )


def _check_mixed(setting: Setting, gain: float | None, start: int) -> None:
    """Raises UserError where nodes prune weights of their own before these were mixed."""
    if gain is None:
        return
    mixing = setting.mixing if setting.mixing.ndim == 2 else setting.mixing[0]
    needed = rounds_to_mix(mixing)
    if start < needed:
        raise UserError(
            f"nodes draw weights of their own (gain) and prune after {start} rounds (start), but"
            f" their units correspond only once {needed} rounds have mixed the weights; let start"
            f" be {needed} or more, or start with the same weights: gain=None"
        )
