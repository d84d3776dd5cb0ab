"""A run as calls of its program: what lies on the devices, and what is asked for round by round."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.random_keys import key_for
from dynhp_jax.decentralised import devices as places
from dynhp_jax.decentralised import directory, initialisation
from dynhp_jax.decentralised.local_training import Examples, Node
from dynhp_jax.decentralised.records import Record, records_of, sent_of
from dynhp_jax.decentralised.rounds import Rounds, Schedule, State
from dynhp_jax.decentralised.setting import Setting
from dynhp_jax.decentralised.units import numbers_held


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
        self._setting, self._slots, self._devices = setting, slots, program.devices
        self._key = self._whole(jax.random.key(seed))
        self._nodes = places.placed(nodes_of(setting), self._devices, divided=True)
        self._data = self._whole(examples_of(setting, program.learning.judged))
        self._calendar = calendar_of(setting, judge_every, judged)
        shared = setting.source.shapes
        units = setting.units
        if program.local_statistics:
            shared, units = {"params": shared["params"]}, units and {"params": units["params"]}
        numbers = numbers_held(shared, units, setting.nodes) * program.rule.sent
        self._sent = sent_of(setting.mixing, setting.presence, numbers)
        self._program = program.program()
        divided, whole = (places.sharding(self._devices, each) for each in (True, False))
        start = jax.jit(
            lambda variables, key, nodes: program.start(
                initial_of(variables, key, setting.nodes, gain), nodes
            ),
            out_shardings=State(divided, divided, whole) if divided else None,
        )
        self.state = start(self._whole(dict(setting.source.variables)), self._key, self._nodes)

    def _whole(self, tree: Any) -> Any:
        return places.placed(tree, self._devices, divided=False)

    def resume(self, place: directory.RoundsDirectory) -> list[Record]:
        """Takes up the state that lies in a directory; gives the records up to it."""
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
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
            self.state, self._key, self._nodes, self._data,
            *self._whole((self._schedule(first, last), np.int32(last - first))),
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


def initial_key(key: jax.Array) -> jax.Array:
    """From which nodes draw their own initial weights, each by its number."""
    return key_for(key, "initial weights")


def initial_of(variables: Any, key: jax.Array, nodes: int, gain: float | None) -> Any:
    """The variables of all nodes at the start, traced; see `run.train`."""
    alike = initialisation.shared(jax.tree.map(jnp.asarray, variables), nodes)
    if gain is None:
        return alike
    params = initialisation.independent(variables["params"], initial_key(key), nodes, gain)
    return {**alike, "params": params}


def nodes_of(setting: Setting) -> Node:
    """All nodes, on the host."""
    parts = setting.parts
    rows = np.zeros((len(parts), max(1, max(map(len, parts)))), np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    counts = np.array([len(part) for part in parts], np.int32)
    numbers = np.arange(len(parts), dtype=np.int32)
    return Node(numbers, rows, counts, setting.units)


def examples_of(setting: Setting, chunk: int) -> Examples:
    """All data, the test examples filled up to whole chunks."""
    train, test = setting.pairs["train"], setting.pairs["test"]
    short = -len(test) % chunk
    test = test.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[:1], short, 0)]))
    return Examples(train.inputs, train.targets, test.inputs, test.targets)


def calendar_of(setting: Setting, every: int, judged: int) -> np.ndarray:
    """On how many test examples the nodes are judged after each round, i32[rounds]."""
    everything = len(setting.pairs["test"])
    due = (np.arange(setting.rounds) + 1) % every == 0
    found = np.where(due, min(judged, everything), 0).astype(np.int32)
    found[-1] = everything
    return found
