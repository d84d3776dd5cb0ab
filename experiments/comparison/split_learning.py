"""Split learning: what a device and a server send each other, and how long learning takes.

Source: Chiasserini et al. 2026 (2405.13088), section IV and Figure 3. A device holds the data and
runs the layers up to the cut, a server the rest. For every example of an epoch the device sends the
outputs at the cut up, and gets their gradients back. Learning takes the time to score the units,
to compute, and to send. The paper's links carry 150 Mbit/s up and 20 Mbit/s down.

A training is reckoned with as many epochs as the runs had; the paper's have 10 before pruning and
40 after it, so that what an epoch after pruning takes weighs more there. The paper's Table I and
its text give delta opposite meanings: here, as in the text and Figure 4, delta is the part of
relevance.

The paper takes computing and traffic to shrink by the pruned fraction, one to one. Here the traffic
is that of the units which are left at the cut, and computing that of their FLOPs; the time is that
of the dense network's epochs, as measured, times the share of FLOPs that are left. What the paper
leaves open: the cut layer, the device's and the server's speeds (one machine here), and the width
of a number (4 bytes here).

>>> traffic(values=100, examples=50, epochs=2)
Traffic(up=40000, down=40000)
>>> round(traffic(values=100, examples=50, epochs=2).seconds(), 6)
0.018133
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from dynhp_jax.common.errors import UserError, shown
from dynhp_jax.pruning.criteria.evidence import Evidence
from dynhp_jax.pruning.criteria.reads import captured
from dynhp_jax.pruning.targets import Flops
from dynhp_jax.training.network import Network
from experiments.comparison import tables
from experiments.comparison.running import Place
from experiments.grids import Grid
from experiments.result_files import Result

UP, DOWN = 150.0, 20.0  # Mbit/s
NUMBER = 4  # bytes
BELOW = (0.5, 1.0, 2.0, 5.0, 10.0)  # points below dense: the targets of accuracy


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes, from the device to the server (up) and back (down)."""

    up: int
    down: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.up + other.up, self.down + other.down)

    def seconds(self, up: float = UP, down: float = DOWN) -> float:
        """How long it takes, one direction after the other, on links of so many Mbit/s."""
        return 8e-6 * (self.up / up + self.down / down)


def traffic(values: float, examples: int, epochs: int) -> Traffic:
    """What training sends.

    Args:
      values: numbers at the cut, for one example; there are as many gradients.
      examples: of the training set.
      epochs: passes through it.
    """
    sent = round(values * examples * epochs) * NUMBER
    return Traffic(sent, sent)


@dataclasses.dataclass(frozen=True)
class Learning:
    """A whole training: dense epochs, scoring, epochs of what is left.

    Attributes:
      scoring, computing: seconds.
      sent: in all epochs.
    """

    scoring: float
    computing: float
    sent: Traffic

    @property
    def seconds(self) -> float:
        """All of it, one after the other."""
        return self.scoring + self.computing + self.sent.seconds()


def learning(
    *,
    epochs: tuple[int, int],
    examples: int,
    values: tuple[float, float],
    share: float,
    epoch_seconds: float,
    scoring: float,
) -> Learning:
    """What a training takes.

    Args:
      epochs: before pruning and after it.
      examples: of the training set.
      values: numbers at the cut for one example, before pruning and after it.
      share: of the FLOPs that are left after it.
      epoch_seconds: computing an epoch of the whole network.
      scoring: seconds.
    """
    sent = (traffic(v, examples, e) for v, e in zip(values, epochs, strict=True))
    computing = epoch_seconds * (epochs[0] + share * epochs[1])
    return Learning(scoring, computing, sum(sent, Traffic(0, 0)))


def values_per_unit(network: Network, name: str) -> float:
    """Numbers that a unit gives for one example where it is first read, behind nonlinearities."""
    variables = network.model.shapes()
    example = jax.ShapeDtypeStruct((2, *network.model.input_shape), np.float32)

    def read(variables, inputs):
        seen = Evidence(network.evaluate, network.groups, variables, (inputs,), names=(name,))
        return captured(seen, variables)[0][1]

    return jax.eval_shape(read, variables, example).size / 2 / network.groups[name].size


def flops_left(network: Network, units: Mapping[str, int]) -> float:
    """The share of a forward pass's FLOPs with so many units in every group."""
    example = jax.ShapeDtypeStruct((2, *network.model.input_shape), np.float32)
    flops = Flops(1, network.evaluate, network.model.shapes(), (example,))
    keeps = {name: np.arange(count) for name, count in units.items()}
    return flops.measure(network.groups, keeps) / flops.measure(network.groups, {})


def report(place: Place, found: Sequence[Result]) -> list[Grid]:
    """By row and fraction, and what it takes to reach an accuracy."""
    whole, comparison = place.whole, place.comparison
    _check_units(place, found)
    name = comparison.cut or next(iter(whole.groups))
    each = values_per_unit(whole, name)
    examples, epochs = len(place.dataset.y_train), (place.base.epochs, comparison.epochs)
    dense = tables.of(found, "dense", 0.0)
    epoch_seconds = float(np.median([r["seconds"] / max(1, epochs[1]) for r in dense]))

    def of(result: Result, epochs: tuple[int, int] = epochs) -> Learning:
        return learning(
            epochs=epochs,
            examples=examples,
            values=(each * whole.groups[name].size, each * result["units"][name]),
            share=flops_left(whole, result["units"]),
            epoch_seconds=epoch_seconds,
            scoring=result.get("score_seconds", 0.0) + result.get("tuning_seconds", 0.0),
        )

    made = {id(result): of(result) for result in found if result["fraction"] is not None}
    head = ("accuracy %", "units at the cut", "an epoch: MB each way", "sending, s",
            "computing, s", "once: scoring, s", "in all: MB each way", "s")  # fmt: skip

    def cells(results: Sequence[Result]) -> tuple[str, ...]:
        taken = [made[id(result)] for result in results]
        epoch = [of(result, (0, 1)) for result in results]

        def mean(values) -> float:
            return float(np.mean(list(values)))

        return (
            tables.spread(results, tables.accuracy),
            f"{mean(r['units'][name] for r in results):.1f}",
            f"{mean(e.sent.up / 1e6 for e in epoch):,.1f}",
            f"{mean(e.sent.seconds() for e in epoch):.1f}",
            f"{mean(e.computing for e in epoch):.1f}",
            f"{mean(t.scoring for t in taken):.2f}",
            f"{mean(t.sent.up / 1e6 for t in taken):,.0f}",
            f"{mean(t.seconds for t in taken):.1f}",
        )

    rows = [("dense", 0.0)]
    rows += [(c, fraction) for c in comparison.criteria for fraction in comparison.fractions]
    table = [("row", "fraction", *head)]
    by_row = {}
    for row, fraction in rows:
        results = tables.of(found, row, fraction)
        if results:
            table.append((row, f"{fraction:g}", *cells(results)))
            by_row.setdefault(row, []).append((fraction, results))
    title = f"{place.base.name}: split learning, cut behind {name}"
    notes = (
        f"{UP:g} Mbit/s up, {DOWN:g} down; {NUMBER} bytes a number; {examples:,} examples an epoch",
        f"an epoch: one after pruning; in all: {epochs[0]} of the whole network and {epochs[1]}"
        " of what is left",
        f"computing: {epoch_seconds:.2f} s an epoch of the whole network, as measured,"
        " times the share of FLOPs that is left",
    )
    grids = [Grid(title, tuple(table), notes)]
    if dense:
        grids.append(_by_target(place.base.name, by_row, dense, of))
    return grids


def _check_units(place: Place, found: Sequence[Result]) -> None:
    """Raises UserError for a result whose units are not of the network's groups."""
    sizes = {name: group.size for name, group in place.whole.groups.items()}
    for result in found:
        units = result["units"]
        if units.keys() != sizes.keys() or any(units[name] > sizes[name] for name in sizes):
            raise UserError(
                f"the result of {shown(result['row'])}, seed {result['seed']}, in {place.results}"
                f" has units of other groups than the network ({', '.join(sizes)}); move it away"
            )


def _by_target(name: str, by_row, dense: Sequence[Result], made: Callable) -> Grid:
    """After Figure 3: the largest fraction that reaches an accuracy, and what an epoch takes."""
    top = float(np.mean([tables.accuracy(each) for each in dense]))
    cells = [("row", *(f"{top - below:.1f} %" for below in BELOW))]
    for row, fractions in by_row.items():
        line = [row]
        for below in BELOW:
            reached = [
                (fraction, results)
                for fraction, results in fractions
                if np.mean([tables.accuracy(r) for r in results]) >= top - below
            ]
            if not reached:
                line.append("-")
                continue
            fraction, results = max(reached, key=lambda pair: pair[0])
            taken = [made(result, (0, 1)) for result in results]
            sent = np.mean([t.sent.up for t in taken]) / 1e6
            seconds = np.mean([t.sent.seconds() + t.computing for t in taken])
            line.append(f"{100 * fraction:g} %: {sent:,.1f} MB, {seconds:.1f} s")
        cells.append(tuple(line))
    notes = (
        "the largest fraction whose mean accuracy reaches the target, and what an epoch after"
        " pruning sends each way and takes, without scoring",
    )
    return Grid(f"{name}: split learning by target of accuracy", tuple(cells), notes)
