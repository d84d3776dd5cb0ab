"""How the examples of a split come to the device: all at once and for good, or in chunks.

A split whose images take more than `config.data.resident` stays on the host, as NumPy arrays. Its
examples are gathered there in the order in which they are needed, some mini-batches at a time. A
chunk is sent while the device still computes with the one before it; two are on the device at
once, never more, or a fast host would fill the device with chunks. Every chunk has the same shape,
so one program serves them all, and it does the same arithmetic on the same rows in the same order
as where the data is resident: the result is the same, bit for bit.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common import byte_sizes
from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.memory import turns
from dynhp_jax.training.config import Config
from dynhp_jax.training.step.evaluation import added_up
from dynhp_jax.training.step.state import StepInputs, Tally, TrainState

CHUNK_BYTES = 64 * 2**20  # of a chunk's images, about: long enough a transfer to be a fast one
AHEAD = 2  # chunks on the device at once

Place = Callable[[Any], Any]


class Part(NamedTuple):
    """Steps of an epoch and what they read, as compiled epochs take it."""

    inputs: Any  # a pytree of [examples, ...]
    targets: Any
    rows: jax.Array  # i32[examples], in which order
    steps: int


def streams(config: Config, examples: int, example: Any) -> bool:
    """Whether a split of so many examples is too large to stay on the device.

    Args:
      config: the run.
      examples: of the split.
      example: shapes and types of one example's inputs.
    """
    return examples * array_bytes(example) > byte_sizes.parse_bytes(config.data.resident)


def at_once(config: Config, examples: int, example: Any, batch: int) -> int:
    """How many examples of a training set of so many a compiled epoch is given at once.

    All, or a whole number of mini-batches: as many as CHUNK_BYTES have room for, and AHEAD times
    `config.data.resident`, but at least one; and so that the chunks of an epoch are equally full.
    """
    if not streams(config, examples, example):
        return examples
    limit = min(CHUNK_BYTES, byte_sizes.parse_bytes(config.data.resident) // AHEAD)
    most = max(1, limit // (batch * array_bytes(example)))
    steps = max(1, examples // batch)
    chunks = -(-steps // most)
    return -(-steps // chunks) * batch


def parts(
    split: Any, order: jax.Array, size: int, batch: int, steps: int, place: Place
) -> Iterator[Part]:
    """An epoch's parts, each sent to the device when it is asked for.

    Args:
      split: a `run.examples.Split`, or a `run.examples.StreamedSplit`.
      order: i32[examples], in which the epoch takes them.
      size: examples of a part, from `at_once`.
      batch: examples of a mini-batch.
      steps: mini-batches of the epoch.
      place: sends arrays to where the run computes.
    """
    if split.resident:
        yield Part(split.inputs, split.targets, order, steps)
        return
    needed, rows = np.asarray(order)[: steps * batch], place(np.arange(size, dtype=np.int32))
    for chunk in split.chunks(needed, size):
        part = padded(chunk, size)  # no step reads what fills up the last part
        yield Part(*place((part.inputs, part.targets)), rows, len(chunk) // batch)


def train(
    program: Callable,
    state: TrainState,
    tally: Tally,
    given: StepInputs,
    parts: Iterator[Part],
    on_host: bool,
    in_turn: bool = False,
) -> tuple[TrainState, Any]:
    """The state and the tally after all parts of an epoch.

    Args:
      program: compiled from `epoch.make_part` or, `on_host`, `make_one_step`.
      state, tally: before the first; consumed.
      given: as in `step.make_step`.
      parts: of the epoch.
      on_host: whether the host calls every step.
      in_turn: whether a call waits until the one before has given its memory back; see
        `memory.turns`.
    """
    before = None
    for inputs, targets, rows, steps in parts:
        for number in range(steps) if on_host else (steps,):
            state, tally = program(state, tally, inputs, targets, given, rows, np.int32(number))
            if in_turn:
                turns.finished(tally.loss)
        # The tally itself is given away to the next call, so that nobody could wait for it.
        now = jnp.copy(tally.loss)
        if before is not None:
            before.block_until_ready()
        before = now
    return state, tally


def evaluate(program: Callable, arguments: tuple, split: Any, chunk: int, place: Place) -> Any:
    """The sums of an evaluation over all chunks of a split, on the host.

    Args:
      program: compiled from `evaluation.make_evaluation`.
      arguments: its first ones: variables, gates, masks.
      split, place: as in `parts`.
      chunk: examples that are evaluated at once.
    """
    found = []
    for data in _evaluated(split, chunk, place):
        if found:  # a CPU would run two chunks side by side, each with activations of its own
            turns.finished(found[-1])
        found.append(program(*arguments, *data))
    return added_up(found)


def _evaluated(split: Any, chunk: int, place: Place) -> Iterator[tuple]:
    """Inputs, targets, the number of a chunk in them, and how many of its examples count."""
    if split.resident:
        for number in range(-(-len(split) // chunk)):
            yield split.inputs, split.targets, np.int32(number), np.int32(len(split))
        return
    for part in split.chunks(None, chunk):
        full = padded(part, chunk)
        yield *place((full.inputs, full.targets)), np.int32(0), np.int32(len(part))


def padded(pairs: Pairs, size: int) -> Pairs:
    """With examples of zeros up to this size, which count for nothing."""
    missing = size - len(pairs)
    return pairs.map(lambda leaf: np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)))
