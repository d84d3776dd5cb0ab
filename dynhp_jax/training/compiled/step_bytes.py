"""The bytes of a run's own compiled steps, by what they hold.

What is metered is the epoch (a loop of training steps over one state) and the evaluation, as they
are executed: arguments + outputs - aliased + temporaries. The examples of a split, their labels and
the order in which an epoch takes them are *data*: they are fed to the device from outside, as a
small one reads them from flash, and do not count. The mini-batch that a step has gathered does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dynhp_jax.common.byte_sizes import array_bytes
from dynhp_jax.memory.compiled import StepBytes, compiled_bytes
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.training.step.state import StepInputs

PARTS = ("params", "optimizer", "gates", "statistics", "batch", "temporaries")
DATA = "data"

Bytes = dict[str, int]


def labels_of(state: Any) -> Any:
    """What each part of a `TrainState` is called; a prefix of its tree."""
    names = {"params": "params"}
    return state._replace(
        step="statistics",
        variables={name: names.get(name, "statistics") for name in state.variables},
        gates="gates",
        masks="gates",
        opt_state="optimizer",
        means="statistics",
        averages="optimizer",
        own="statistics",
    )


def training_bytes(
    compiled: jax.stages.Compiled, gathered: int, carried: bool, tried: bool = True
) -> Bytes:
    """Bytes of a compiled training step, by PARTS; their sum is what it takes.

    Args:
      compiled: `epoch.make_epoch`, `make_part` or `make_one_step`.
      gathered: bytes of the mini-batch (or micro-batch) that is in memory at once.
      carried: whether the tally is an argument, between two calls: of a part or a step.
      tried: whether the program may be tried out; see `memory.compiled.compiled_bytes`.
    """
    arguments = compiled.args_info[0]
    tally = ("statistics",) if carried else ()
    given = StepInputs(*[DATA] * len(StepInputs._fields))._replace(prices="gates", units="gates")
    labels = (labels_of(arguments[0]), *tally, DATA, DATA, given, DATA, DATA)
    return _parts(compiled_bytes(compiled, labels, tried), gathered)


def evaluation_bytes(
    compiled: jax.stages.Compiled, gathered: int, state: Any, tried: bool = True
) -> Bytes:
    """Bytes of the compiled `evaluation.make_evaluation`, with the state that waits meanwhile.

    Args:
      compiled: the evaluation.
      gathered: bytes of the examples that are evaluated at once.
      state: the `TrainState` (arrays or shapes); what of it the evaluation does not take as an
        argument stays in memory all the same, above all the optimizer's moments.
      tried: whether the program may be tried out; see `memory.compiled.compiled_bytes`.
    """
    variables = compiled.args_info[0][0]
    names = {name: "params" if name == "params" else "statistics" for name in variables}
    labels = (names, "gates", "gates", "statistics", DATA, DATA, DATA, DATA)
    parts = _parts(compiled_bytes(compiled, labels, tried), gathered)
    for name, size in state_bytes(state).items():
        parts[name] = max(parts[name], size)
    return parts


def scoring_bytes(
    compiled: jax.stages.Compiled, evidence: Evidence, state: Any, copied: bool, tried: bool = True
) -> Bytes:
    """Bytes of a compiled piece of scoring (`criteria.chunks`), with the state that waits.

    Args:
      compiled: a function of the evidence alone, or of sums and evidence.
      evidence: that it was compiled for, of arrays or shapes.
      state: the `TrainState` (arrays or shapes) of the run meanwhile.
      copied: whether the evidence has variables of its own, beside those of the state.
      tried: whether the program may be tried out; see `memory.compiled.compiled_bytes`.
    """
    variables = {
        name: "params" if name == "params" else "statistics" for name in evidence.variables
    }
    seen = dataclasses.replace(
        evidence, variables=variables, inputs="batch", labels="batch", key=DATA, gates="gates",
        earlier="statistics",
    )  # fmt: skip
    sums = ("temporaries",) * (len(compiled.args_info[0]) - 1)
    found = compiled_bytes(compiled, (*sums, seen), tried)
    parts = dict.fromkeys(PARTS, 0) | found.arguments
    del parts[DATA]
    parts["temporaries"] += found.outputs + found.between
    for name, size in state_bytes(state).items():
        parts[name] = parts[name] + size if copied else max(parts[name], size)
    return parts


def starting_bytes(compiled: jax.stages.Compiled, state: Any, tried: bool = True) -> Bytes:
    """Bytes of the compiled program that makes a run's initial state out of keys.

    Args:
      compiled: it.
      state: the `TrainState` that it makes (arrays or shapes).
      tried: whether the program may be tried out; see `memory.compiled.compiled_bytes`.
    """
    found = compiled_bytes(compiled, (DATA,) * len(compiled.args_info[0]), tried)
    parts = waiting_bytes(state)
    beside = found.outputs + found.between - array_bytes(state)
    return parts | {"temporaries": max(beside, 0)}


def waiting_bytes(state: Any) -> Bytes:
    """Bytes of a state (arrays or shapes) while something else is computed, by PARTS."""
    return dict.fromkeys(PARTS, 0) | state_bytes(state)


def surgery_bytes(before: Any, after: Any) -> Bytes:
    """Bytes of cutting a state array by array, each given back when its smaller one is there.

    Args:
      before, after: the `TrainState` (arrays or shapes).
    """
    largest = max(array_bytes(leaf) for leaf in jax.tree.leaves(after))
    return waiting_bytes(before) | {"temporaries": largest}


def state_bytes(state: Any) -> Bytes:
    """Bytes of a state's arrays, by their labels, and of the gates' prices and numbers."""
    sizes = dict.fromkeys(("params", "optimizer", "gates", "statistics"), 0)

    def count(label: str, leaves: Any) -> None:
        sizes[label] += array_bytes(leaves)

    jax.tree.map(count, labels_of(state), state)
    count("gates", (state.masks, state.masks))  # prices and numbers, one per mask each
    return sizes


def total(parts: Mapping[str, int]) -> int:
    """Bytes in all."""
    return sum(parts.values())


def device_peak() -> int | None:
    """The most bytes that the device has held so far, by its own count; None where it has none."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


def _parts(found: StepBytes, gathered: int) -> Bytes:
    parts = dict.fromkeys(PARTS, 0)
    for label, size in found.arguments.items():
        if label != DATA:
            parts[label] += size
    parts["statistics"] += found.outputs  # the tally, the confusion matrix
    temporaries = found.between
    # XLA has one figure for everything in between; of that, the gathered examples are known.
    parts["batch"] = min(gathered, temporaries)
    parts["temporaries"] = temporaries - parts["batch"]
    return parts
