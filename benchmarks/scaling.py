"""How the cost of dynamic hard pruning over dense training changes with width, depth and data.

    python -m benchmarks.scaling --out=results/speed/scaling.json

A multilayer perceptron on Fashion-MNIST, mini-batch 128, Adam. One thing grows at a time. A step
with gates and variance and a dense one run in turn in one process; with their ratio: seconds to
find the groups, to compile both (without a cache on disk), and to cut half of all units at the end
of an epoch, by which a run pays once for every change of its shapes.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import alternation, record
from dynhp_jax.training import build, config
from dynhp_jax.training.run import shape_plans

ROUNDS, BATCH = 9, 128
DENSE = config.Config(
    method="dense",
    data=config.Data(name="fashion_mnist"),
    batch=config.Batch(variance="none", rule="fixed"),
    memory=config.Memory(budget="none"),
)
PRUNED = dataclasses.replace(DENSE, method="hp", batch=config.Batch(variance="norms", rule="fixed"))
WIDTHS = [(150, 50), (300, 100), (600, 200), (1200, 400), (2400, 800)]
DEPTHS = [(128,) * depth for depth in (1, 2, 4, 8, 16)]
DATA = [3_750, 7_500, 15_000, 30_000, 60_000]


def measure(hidden: tuple[int, ...], examples: int) -> dict:
    """Costs of one network and one training set."""
    dataset = build.dataset_of(DENSE)
    dataset = dataclasses.replace(
        dataset, x_train=dataset.x_train[:examples], y_train=dataset.y_train[:examples]
    )
    model = config.Model(hidden=hidden)
    made = {
        name: alternation.training(dataclasses.replace(settings, model=model), dataset, BATCH)
        for name, settings in {"dense": DENSE, "pruned": PRUNED}.items()
    }
    seconds = alternation.in_turn({name: each.turn for name, each in made.items()}, ROUNDS)
    over = alternation.ratios(seconds, {"time": ("pruned", "dense")})
    steps = min(alternation.EXAMPLES_PER_TURN, examples) // BATCH
    pruned = made["pruned"]
    return {
        "hidden": hidden,
        "examples": examples,
        "parameters": pruned.trainer.whole_parameters,
        "pruned over dense, time": over["time"],
        "pruned over dense, bytes": pruned.step_bytes / made["dense"].step_bytes,
        "step_ms": {name: 1000 * statistics.median(each) / steps for name, each in seconds.items()},
        "analysis_seconds": pruned.analysis_seconds,
        "compile_seconds": {name: each.compile_seconds for name, each in made.items()},
        "cut_seconds": cut_seconds(pruned),
    }


def cut_seconds(contestant: alternation.Contestant) -> float:
    """Half of the units of every group leave the arrays and the optimizer's state."""
    trainer = contestant.trainer
    run = trainer.start()
    keeps = {name: np.arange(0, group.size, 2) for name, group in run.network.groups.items()}
    began = time.perf_counter()
    _, state = shape_plans.resize(run.network, run.state, trainer.tx, keeps)
    jax.block_until_ready(state.variables)
    return time.perf_counter() - began


def main() -> None:
    """Measures all sizes and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/speed/scaling.json"))
    flags = parser.parse_args()
    sizes = {
        "width": [(hidden, 60_000) for hidden in WIDTHS],
        "depth": [(hidden, 60_000) for hidden in DEPTHS],
        "data": [((300, 100), examples) for examples in DATA],
    }
    measure((32,), 3_750)  # what only a process's first run does: reading data, starting threads
    found = {}
    for name, each in sizes.items():
        found[name] = [measure(*size) for size in each]
        print(name, json.dumps(found[name], indent=1), flush=True)
    head = record.head("python -m benchmarks.scaling", jax.devices()[0].device_kind)
    record.write(flags.out, {**head, **found})


if __name__ == "__main__":
    main()
