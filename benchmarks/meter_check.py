"""Holds the metered bytes of training, evaluation and scoring against the resident set (Linux).

    python -m benchmarks.meter_check --out=results/memory/meter_check.json

A process per size: it loads the data, compiles and meters, runs once (the first run loads code and
starts threads), reads its resident set, runs a few times and reads the highest resident set since.
That and the state, which is there while it is read, is what the step took. The allocator is told to
give every large block back at once, so that memory which was freed before is not counted as there.
There is a budget, though one in which all fits, so that programs have the form that takes fewer
bytes (`dynhp_jax.memory.fusion`). XLA's own count stands beside training and evaluation: without
what the libraries of the CPU take. Scoring takes twice the examples of a mini-batch in two chunks,
as under a budget.

The JSON is written after every size, and one that is there already is not run again.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from dynhp_jax.memory import trial_records, trials
from dynhp_jax.memory.trial_process import resident
from dynhp_jax.pruning.criteria import parse
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import programs, step_bytes
from dynhp_jax.training.compiled.scorer import Scorer
from dynhp_jax.training.run import loop, prune_by_criterion
from dynhp_jax.training.run.trainer import Run, Trainer

SIZES = (  # data, model, mini-batch, examples that are evaluated at once
    ("fashion_mnist", config.Model(name="mlp", hidden=(300, 100)), 500, 1000),
    ("fashion_mnist", config.Model(name="mlp", hidden=(4000, 1000)), 1024, 4000),
    ("fashion_mnist", config.Model(name="mlp", hidden=(4000, 2000)), 512, 8000),
    ("fashion_mnist", config.Model(name="lenet"), 500, 1000),
    ("fashion_mnist", config.Model(name="lenet"), 64, 8000),
    ("cifar10", config.Model(name="vgg", depth=11, width=0.25), 128, 1000),
    ("cifar10", config.Model(name="resnet", depth=20, width=0.5), 128, 1000),
    ("cifar10", config.Model(name="mobilenet", width=0.25), 32, 250),
    ("cifar10", config.Model(name="vit", width=0.5), 128, 500),
)
CRITERIA = ("taylor", "flexrel")  # a gradient of the units, and relevance
STEPS = 2  # of an epoch
CALLS = 4
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc
BUDGET = "1000GB"
Row = dict[str, Any]


def taken(call: Callable[[], Any]) -> Row:
    """Bytes that some calls add to the resident set at the most, and the least seconds of one."""
    call()
    gc.collect()
    time.sleep(0.3)  # buffers are given back when their thread comes to it
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    seconds, processor = [], []
    for _ in range(CALLS):
        start, worked = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - worked)
    added = resident("VmHWM") - before
    return {"resident": added, "seconds": min(seconds), "processor_seconds": min(processor)}


def row(what: str, metered: Callable[[], step_bytes.Bytes], state: int, call: Callable) -> Row:
    """Metered and resident bytes of a program that is compiled, or will be by the meter.

    Args:
      what: names the program.
      metered: its bytes, by part.
      state: bytes of the state, which is there before and after.
      call: runs it.
    """
    start = time.perf_counter()
    counted = step_bytes.total(metered())
    seconds = time.perf_counter() - start
    found = taken(call)
    found["resident"] += state
    return {
        "program": what,
        "metered": counted,
        **found,
        "metered_over_resident": counted / found["resident"],
        "metering_seconds": seconds,
    }


def steps_of(trainer: Trainer, run: Run, chunk: int) -> Iterator[Row]:
    """The rows of evaluation and training."""
    steps, network, batch = trainer.steps, run.network, trainer.config.batch.size
    state = step_bytes.total(step_bytes.state_bytes(run.state))

    def train() -> None:
        nonlocal run
        after, _ = loop.train_epoch(trainer, run, batch, 1, STEPS)
        run = dataclasses.replace(run, state=jax.block_until_ready(after))

    def evaluate() -> None:
        loop.evaluate(trainer, network, run.state, run.splits["test"], "test", chunk)

    for what, program, metered, call in (
        (
            f"evaluation of {chunk}",
            steps.evaluation_program(network, chunk, "test"),
            lambda: steps.evaluation_bytes(network, chunk, "test"),
            evaluate,
        ),
        (
            f"training with {batch}",
            steps.training_program(network, batch),
            lambda: steps.training_bytes(network, batch),
            train,
        ),
    ):
        fusion = (trial_records.attached(program) or trial_records.Record()).fusion
        beside = state + trials.own_bytes(program)
        yield {**row(what, metered, state, call), "xla": beside, "fusion": fusion}


def scoring_of(trainer: Trainer, run: Run) -> Iterator[Row]:
    """The rows of scoring, a criterion each."""
    batch, found = trainer.config.batch.size, prune_by_criterion.scored(trainer, run)
    for criterion in CRITERIA:
        scorer = Scorer(parse.parse(criterion), trainer.budget, criterion)
        yield row(
            f"scoring by {criterion}, 2 x {batch}",
            lambda scorer=scorer: scorer.bytes(found, batch),
            step_bytes.total(step_bytes.state_bytes(run.state)),
            lambda scorer=scorer: scorer.scores(found, batch),
        )


def check(size: int, cores: int, scored: bool, budget: str) -> list[Row]:
    """The rows of one size, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before XLA starts threads
    name, model, batch, chunk = SIZES[size]
    asked = config.Config(
        method="sp",
        data=config.Data(name=name, examples=STEPS * batch),
        model=model,
        batch=config.Batch(size=batch),
        memory=config.Memory("xla", budget, smallest=batch),
        scores=ScoreOptions(examples=2 * batch),
    )
    dataset = build.dataset_of(asked)
    few = {"x_test": dataset.x_test[:chunk], "y_test": dataset.y_test[:chunk]}
    dataset = dataclasses.replace(dataset, **few)
    options = {"width": model.width, "hidden": list(model.hidden)}
    trainer = Trainer(asked, dataset, programs.Programs())
    rows = list(steps_of(trainer, trainer.start(), chunk))  # training consumes the run
    if scored:
        rows += scoring_of(trainer, trainer.start())
    return [{"model": model.name, "options": options, **row} for row in rows]


def one(
    size: int,
    cores: int,
    scored: bool = True,
    budget: str = BUDGET,
    environment: dict | None = None,
) -> list[Row]:
    """The rows of one size, from a process of its own.

    Args:
      size: place in SIZES.
      cores: that it may use.
      scored: whether with those of scoring.
      budget: of memory; with 'none' programs have the form that they have by default.
      environment: variables beside those of this process.
    """
    what = f"{size},{cores},{int(scored)},{budget}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.meter_check", f"--one={what}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ALLOCATOR, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs a process per size and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/meter_check.json"))
    parser.add_argument("--models", default="", help="only these, with commas")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        *whole, budget = flags.one.split(",")
        size, cores, scored = map(int, whole)
        print(json.dumps(check(size, cores, bool(scored), budget)))
        return
    models = flags.models.split(",") if flags.models else [model.name for _, model, *_ in SIZES]
    available = len(os.sched_getaffinity(0))
    rows = json.loads(flags.out.read_text())["rows"] if flags.out.exists() else []
    done = {(row["size"], row["cores"]) for row in rows}
    for size, cores in itertools.product(range(len(SIZES)), sorted({1, available})):
        _, model, *_ = SIZES[size]
        # On one core what a product packs is another; a chain of operations is much the same.
        left_out = model.name not in models or (cores == 1 < available and model.name != "mlp")
        if left_out or (size, cores) in done:
            continue
        head = record.head("python -m benchmarks.meter_check", jax.devices()[0].device_kind)
        found = one(size, cores)
        rows += [{"size": size, "cores": cores, "commit": head["commit"], **row} for row in found]
        rows.sort(key=lambda row: (row["size"], row["cores"]))
        record.write(flags.out, {**head, "rows": rows})
        print(*found, sep="\n", flush=True)


if __name__ == "__main__":
    main()
