"""What gates and the variance of the gradients add to a training step, as ratios in one process.

    python -m benchmarks.steps --out=results/speed/steps.json

Programs of an epoch on Fashion-MNIST (784-300-100, Adam) that differ in one thing run in turn, for
some hundred steps each; of every round the ratio of two of them is taken, and the median of the
rounds is kept, with the quartiles. With it: how fast the dense step is beside its three matrix
products alone, which are timed in the same rounds.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from dynhp_jax import compiling, config, metering, runs

ROUNDS, EXAMPLES_PER_TURN, HIDDEN = 15, 25_600, (300, 100)
DENSE = config.Config(
    method="dense",
    data=config.Data(name="fashion_mnist"),
    model=config.Model(hidden=HIDDEN),
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


def training(settings: config.Config, dataset, batch: int) -> tuple[Callable, int]:
    """(a function that trains for a turn, bytes of the step)."""
    trainer = runs.Trainer(settings, dataset, compiling.Programs())
    run = trainer.start()
    program = trainer.budget.training_program(run.network, batch)
    split, steps = run.splits["train"], EXAMPLES_PER_TURN // batch
    data = (split.images, split.labels, run.given, trainer.order(np.int32(1)))
    held = [run.state]

    def turn() -> None:
        held[0], _ = program(held[0], *data, np.int32(steps))
        jax.block_until_ready(held[0])

    return turn, metering.total(trainer.budget.training_bytes(run.network, batch))


def products(batch: int) -> Callable:
    """The dense step's matrix products alone: outputs, gradients of weights and of hidden units."""
    widths = (784, *HIDDEN, 10)
    pairs = list(zip(widths, widths[1:], strict=False))
    weights = [jnp.ones(pair) for pair in pairs]
    inputs = [jnp.ones((batch, n)) for n in widths]

    @jax.jit
    def run(inputs, weights, steps):
        def step(_, carried):
            inputs, weights = carried
            outs = [x @ w for x, w in zip(inputs, weights, strict=False)]
            grads = [x.T @ y for x, y in zip(inputs, outs, strict=False)]
            backs = [y @ w.T for y, w in zip(outs[1:], weights[1:], strict=True)]
            # Next step's operands depend on all results, so that none is left out or moved out.
            inputs = [inputs[0], *(1e-9 * b for b in backs), inputs[-1]]
            return inputs, [w - 1e-9 * g for w, g in zip(weights, grads, strict=True)]

        return jax.lax.fori_loop(0, steps, step, (inputs, weights))

    compiled = run.lower(inputs, weights, np.int32(1)).compile()
    return lambda: jax.block_until_ready(
        compiled(inputs, weights, np.int32(EXAMPLES_PER_TURN // batch))
    )


def measure(batch: int, dataset) -> dict:
    """Ratios of times and bytes at one batch."""
    made = {name: training(settings, dataset, batch) for name, settings in VARIANTS.items()}
    turns = {name: turn for name, (turn, _) in made.items()} | {"products": products(batch)}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()  # the first one touches memory
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - start)
    times = {
        name: record.spread([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])
        for name, (one, other) in RATIOS.items()
    }
    sizes = {
        name: made[one][1] / made[other][1]
        for name, (one, other) in RATIOS.items()
        if one in made and other in made
    }
    return {
        "batch": batch,
        "time": times,
        "bytes": sizes,
        "examples_per_second": {
            name: EXAMPLES_PER_TURN / statistics.median(all_) for name, all_ in seconds.items()
        },
    }


def main() -> None:
    """Measures every batch and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/speed/steps.json"))
    parser.add_argument("--batches", default="16,128,512")
    flags = parser.parse_args()
    compiling.use_cache()
    dataset, rows = runs.dataset_of(DENSE), []
    for batch in map(int, flags.batches.split(",")):
        rows.append(measure(batch, dataset))
        print(json.dumps(rows[-1], indent=1), flush=True)
    head = record.head("python -m benchmarks.steps", jax.devices()[0].device_kind)
    record.write(flags.out, {**head, "rows": rows})


if __name__ == "__main__":
    main()
