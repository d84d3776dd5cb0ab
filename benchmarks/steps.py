"""What gates and the variance of the gradients add to a training step, as ratios in one process.

    python -m benchmarks.steps --out=results/speed/steps.json

Programs of an epoch on Fashion-MNIST (Adam; 784-300-100 and 784-200-100-50) that differ in one
thing run in turn, for some hundred steps each; of every round the ratio of two of them is taken,
and the median of the rounds is kept, with the quartiles. With it: how fast the dense step is beside
its three matrix products alone, which are timed in the same rounds.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import jax

from benchmarks import alternation, record
from benchmarks.alternation import EXAMPLES_PER_TURN
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import program_cache

ROUNDS = 15
DENSE = config.Config(
    method="dense",
    data=config.Data(name="fashion_mnist"),
    batch=config.Batch(variance="none", rule="fixed"),
    memory=config.Memory(budget="none"),
)
GATED = dataclasses.replace(DENSE, method="sp")
VARIANTS = {
    "dense": DENSE,
    "dense, variance": dataclasses.replace(DENSE, batch=config.Batch(variance="norms")),
    "gated": GATED,
    "gated, variance": dataclasses.replace(GATED, batch=config.Batch(variance="norms")),
    "per example": dataclasses.replace(GATED, gates=config.Gates(per_example=True)),
    "per example, variance": dataclasses.replace(
        GATED, gates=config.Gates(per_example=True), batch=config.Batch(variance="norms")
    ),
}
RATIOS = {  # name: (numerator, denominator)
    "variance on over off, dense": ("dense, variance", "dense"),
    "variance on over off, gated": ("gated, variance", "gated"),
    "gates over none": ("gated", "dense"),
    "per example over per mini-batch": ("per example", "gated"),
    "per example over per mini-batch, with variance": ("per example, variance", "gated, variance"),
    "matrix products over dense step": ("products", "dense"),
}


def measure(hidden: tuple[int, ...], batch: int, dataset) -> dict:
    """Ratios of times and bytes at one batch."""
    model = config.Model(hidden=hidden)
    made = {
        name: alternation.training(dataclasses.replace(settings, model=model), dataset, batch)
        for name, settings in VARIANTS.items()
    }
    turns = {name: contestant.turn for name, contestant in made.items()}
    turns["products"] = alternation.products((784, *hidden, 10), batch)
    seconds = alternation.in_turn(turns, ROUNDS)
    return {
        "hidden": hidden,
        "batch": batch,
        "time": alternation.ratios(seconds, RATIOS),
        "bytes": {
            name: made[one].step_bytes / made[other].step_bytes
            for name, (one, other) in RATIOS.items()
            if one in made and other in made
        },
        "examples_per_second": {
            name: EXAMPLES_PER_TURN / statistics.median(each) for name, each in seconds.items()
        },
    }


def main() -> None:
    """Measures all widths and batches and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/speed/steps.json"))
    parser.add_argument("--batches", default="16,128,512")
    parser.add_argument("--hidden", default="300-100,200-100-50")
    flags = parser.parse_args()
    program_cache.use_cache()
    dataset, rows = build.dataset_of(DENSE), []
    for widths in flags.hidden.split(","):
        hidden = tuple(map(int, widths.split("-")))
        for batch in map(int, flags.batches.split(",")):
            rows.append(measure(hidden, batch, dataset))
            print(json.dumps(rows[-1], indent=1), flush=True)
    head = record.head("python -m benchmarks.steps", jax.devices()[0].device_kind)
    record.write(flags.out, {**head, "rows": rows})


if __name__ == "__main__":
    main()
