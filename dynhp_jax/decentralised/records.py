"""What a record says of a round: by node its loss, what it sent, and how it was judged."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.decentralised.rounds import Observed
from dynhp_jax.decentralised.scenarios import Presence
from dynhp_jax.tasks.task import Task

Record = dict[str, Any]

_NUMBER = jnp.dtype(jnp.float32).itemsize


def sent_of(mixing: np.ndarray, presence: Presence, numbers: np.ndarray) -> np.ndarray:
    """Bytes that each node sends in each round: its own arrays, to everybody who mixes them.

    Args:
      mixing: f64[nodes, nodes], or of every round.
      presence: who is there.
      numbers: int[nodes], that each has to send.

    Returns:
      int[rounds, nodes].
    """
    hears = (mixing > 0) & ~np.eye(mixing.shape[-1], dtype=bool)  # nobody sends to itself
    alive = presence.alive.astype(np.int64)
    receivers = (alive[:, None] @ hears.astype(np.int64))[:, 0]  # hears is of each round, or of all
    return alive * receivers * numbers * _NUMBER


def records_of(
    task: Task,
    observed: Observed,
    presence: Presence,
    sent: np.ndarray,
    calendar: np.ndarray,
    first: int,
    last: int,
) -> list[Record]:
    """The records of the rounds of one call.

    Args:
      task: by which the nodes are judged.
      observed: of the call.
      presence: of all rounds.
      sent: int[rounds, nodes].
      calendar: i32[rounds], test examples.
      first, last: rounds before the call, and after it.
    """
    loss, sums = jax.device_get((observed.loss, observed.sums))
    found = []
    for slot, number in enumerate(range(first, last)):
        record: Record = {
            "round": number + 1,
            "loss": [_number(value, trained)
                     for value, trained in zip(loss[slot], presence.trains[number], strict=True)],
            "alive": presence.alive[number].astype(int).tolist(),
            "bytes_sent": sent[number].tolist(),
        }  # fmt: skip
        examples = int(calendar[number])
        if examples:
            of_round = jax.tree.map(lambda leaf, slot=slot: leaf[slot], sums)
            record |= {"test_examples": examples, **_judged(task, of_round, examples)}
        found.append(record)
    return found


def _judged(task: Task, sums: dict[str, Any], examples: int) -> dict[str, list[float]]:
    total = sums.pop("loss")
    judged = {"test_loss": [float(each) / examples for each in total]}
    for name, metric in task.reported:
        judged[f"test_{name}"] = [
            metric.result(jax.tree.map(lambda leaf, k=k: leaf[k], sums[name]), examples)
            for k in range(len(total))
        ]
    return judged


def _number(value: float, trained: bool) -> float | None:
    return float(value) if trained or not math.isnan(value) else None
