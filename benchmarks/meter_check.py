"""Holds the metered bytes of training and evaluation against the resident set (Linux).

    python -m benchmarks.meter_check --out=results/memory/meter_check.json
    python -m benchmarks.meter_check --fusion=off --out=results/memory/without_fusion.json

A process per size: it loads the data, compiles and meters, runs once (the first run loads code and
starts threads), reads its resident set, runs again and reads the highest resident set since. That
and the state, which is there while it is read, is what the step took. The allocator is told to give
every large block back at once, so that memory which was freed before is not counted as there.
XLA's own count stands beside it: without what the libraries of the CPU take.

`--fusion=off` compiles without the fusion of operations into calls of YNNPACK; what takes longer
than LIMIT_S is left out, and said. The JSON is written after every size, and one that is there
already is not run again.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from dynhp_jax import compiling, config, loop, metering, named, runs
from dynhp_jax.trial_process import resident

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
STEPS = 2  # of an epoch
LIMIT_S = 300
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc
FUSION = {"on": {}, "off": {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}}


def taken(call: Callable[[], Any]) -> tuple[int, float]:
    """Bytes that a second call adds to the resident set, and the seconds that it takes."""
    call()
    gc.collect()
    time.sleep(0.3)  # buffers are given back when their thread comes to it
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    start = time.perf_counter()
    call()
    return resident("VmHWM") - before, time.perf_counter() - start


def check(data: str, model: config.Model, batch: int, chunk: int, cores: int) -> list[dict]:
    """Metered and resident bytes of one size, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before XLA starts threads
    asked = config.Config(
        method="sp",
        data=config.Data(name=data, examples=STEPS * batch),
        model=model,
        batch=config.Batch(size=batch),
        memory=config.Memory("xla", "none"),
    )
    programs = compiling.Programs()
    dataset = named.dataset_of(asked)
    few = {"x_test": dataset.x_test[:chunk], "y_test": dataset.y_test[:chunk]}
    trainer = runs.Trainer(asked, dataclasses.replace(dataset, **few), programs)
    run = trainer.start()
    steps, network = trainer.steps, run.network
    test = run.splits["test"]

    def train() -> None:
        nonlocal run
        state, _ = loop.train_epoch(trainer, run, batch, 1, STEPS)
        run = dataclasses.replace(run, state=jax.block_until_ready(state))

    def evaluate() -> None:
        loop.evaluate(trainer, network, run.state, test, "test", chunk)

    rows = []
    state_bytes = metering.total(metering.state_bytes(run.state))
    for what, program, metered, call in (
        (
            f"evaluation of {chunk}",
            lambda: steps.evaluation_program(network, chunk, "test"),
            lambda: steps.evaluation_bytes(network, chunk, "test"),
            evaluate,
        ),
        (
            f"training with {batch}",
            lambda: steps.training_program(network, batch),
            lambda: steps.training_bytes(network, batch),
            train,
        ),
    ):
        compiled = program()
        start = time.perf_counter()
        counted = metering.total(metered())
        seconds = time.perf_counter() - start
        own = compiled.memory_analysis()
        added, run_seconds = taken(call)
        found = added + state_bytes
        rows.append(
            {
                "model": model.name,
                "options": {"width": model.width, "hidden": list(model.hidden)},
                "program": what,
                "metered": counted,
                "xla": state_bytes
                + own.temp_size_in_bytes
                + own.output_size_in_bytes
                - own.alias_size_in_bytes,
                "resident": found,
                "metered_over_resident": counted / found,
                "metering_seconds": seconds,
                "seconds": run_seconds,
            }
        )
    return rows


def one(size: int, cores: int, fusion: str) -> list[dict]:
    """The rows of one size, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.meter_check", f"--one={size},{cores}"]
    environment = {**os.environ, **ALLOCATOR, **FUSION[fusion]}
    try:
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=LIMIT_S if fusion == "off" else None,
        )
    except subprocess.TimeoutExpired:
        return [{"model": SIZES[size][1].name, "left_out_after_s": LIMIT_S}]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs a process per size and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/meter_check.json"))
    parser.add_argument("--models", default="", help="only these, with commas")
    parser.add_argument("--fusion", choices=FUSION, default="on", help="of chains of operations")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        size, cores = map(int, flags.one.split(","))
        print(json.dumps(check(*SIZES[size], cores)))
        return
    models = flags.models.split(",") if flags.models else [model.name for _, model, *_ in SIZES]
    available = len(os.sched_getaffinity(0))
    said = "python -m benchmarks.meter_check" + " --fusion=off" * (flags.fusion == "off")
    rows = json.loads(flags.out.read_text())["rows"] if flags.out.exists() else []
    done = {(row["size"], row["cores"]) for row in rows}
    for size, cores in itertools.product(range(len(SIZES)), sorted({1, available})):
        _, model, *_ = SIZES[size]
        # On one core what a product packs is another; a chain of operations is much the same.
        left_out = model.name not in models or (cores == 1 < available and model.name != "mlp")
        if left_out or (size, cores) in done:
            continue
        head = record.head(said, jax.devices()[0].device_kind)
        found = one(size, cores, flags.fusion)
        rows += [{"size": size, "cores": cores, "commit": head["commit"], **row} for row in found]
        rows.sort(key=lambda row: (row["size"], row["cores"]))
        record.write(flags.out, {**head, "rows": rows})
        print(*found, sep="\n", flush=True)


if __name__ == "__main__":
    main()
