"""Seconds of a plan: three models, three node sets, a horizon of 100 epochs.

    python -m benchmarks.planner --out=results/planner/seconds.json

Every model may run on every node set, and every move is allowed, back as well. The deadline is
slack in one case and too short in the other. The plan is made anew each time, from the first epoch;
seconds are those of the processor, which other programs on the machine do not lengthen.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np

from dynhp_jax.common import paths
from dynhp_jax.common.disk import write_json
from dynhp_jax.planner import Curves, Grid, Limits, Plan, State, Tables, plan
from dynhp_jax.training.files import provenance
from experiments import commandline

_OPTIONS = (("out", "results/planner/seconds.json", "file of the result"),)


def scenario() -> tuple[State, Tables, Curves]:
    """Larger models fall further, better nodes are faster and dearer."""
    models, nodes = ("L", "M", "S"), ("gold", "silver", "bronze")
    speed = np.array([1.0, 0.8, 0.5])
    time_, energy = (np.outer(each, speed) for each in ((1, 0.8, 0.5), (1, 0.5, 0.2)))
    change = np.full((3, 3, 3, 3), 0.1)
    for m, n in np.ndindex(3, 3):
        change[m, n, m, n] = 0
    tables = Tables(models, nodes, time_, energy, change, change)
    epochs, curves = np.arange(200), {}
    for (model, where), (m, n) in tables.places.items():
        floor, pace = 0.05 + 0.06 * m, 0.02 * (1 - 0.2 * n)
        curves[type(tables.start)(model, where)] = floor + (0.5 + pace * epochs) ** -1.0
    jumps = {(a, b): 0.02 for a in curves for b in curves if a != b}
    return State.beginning(tables.start, 2.05), tables, Curves(curves, jumps)


def main(argv: Sequence[str]) -> None:
    """Plans and writes the seconds."""
    _, _, out = commandline.parse(argv, False, _OPTIONS, workdir="")
    start, tables, known = scenario()
    grid = Grid(0.005, 0.1)
    free = plan(start, tables, known, Limits(0.75, 1_000.0), grid)
    assert isinstance(free, Plan)
    found = {}
    for name, deadline in (("slack", 100.0), ("infeasible", free.time * 0.97)):
        began = time.process_time()
        result = plan(start, tables, known, Limits(0.75, deadline), grid)
        seconds = time.process_time() - began
        epochs = len(result.steps) if isinstance(result, Plan) else None
        found[name] = {"seconds": round(seconds, 3), "epochs": epochs}
        print(f"{name}: {found[name]['seconds']} s, a plan of {epochs} epochs", flush=True)
    write_json(paths.given(out, "--out"), {**found, **provenance.present()})


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
