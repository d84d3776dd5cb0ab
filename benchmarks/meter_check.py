"""Holds the metered bytes of training steps against the resident set of the process (Linux).

    python -m benchmarks.meter_check --out=results/memory/meter_check.json

A process per size: it loads the data, compiles, trains for an epoch (the first one also loads
code and starts threads), reads its resident set, trains for another epoch and reads the highest
resident set since. That, less what was there without the state, is what training took. The
allocator is told to give every large block back at once, so that what the first epoch has freed is
not counted as there. Beside it: live arrays (sampled while it trains) and XLA's temporaries. Sizes
are 100 MB and more. Each is run on all cores and on one, since XLA's
buffer assignment leaves out what the libraries of a CPU allocate inside a matrix product for every
thread, or inside a convolution.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax

from benchmarks import record
from dynhp_jax import compiling, config, loop, metering, named, runs

SIZES = (  # model, its hidden units, batch
    ("mlp", (4000, 1000), 1024),
    ("mlp", (4000, 2000), 512),
    ("mlp", (1000, 500), 8000),
    ("mlp", (4000, 2000), 4000),
    ("lenet", (), 500),
)
EXAMPLES = 8000
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc


def resident(name: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (highest since the last reset)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


class Sampling:
    """The most bytes that live arrays of this process hold while the block runs, as `peak`."""

    def __init__(self):
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, sum(array.nbytes for array in jax.live_arrays()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def check(model: str, hidden: tuple[int, ...], batch: int, cores: int) -> dict:
    """Metered and resident bytes of one size, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before XLA starts threads
    asked = config.Config(
        method="sp",
        data=config.Data(name="fashion_mnist", examples=EXAMPLES),
        model=config.Model(name=model, hidden=hidden),
        batch=config.Batch(size=batch),
        memory=config.Memory("xla", "none"),
    )
    trainer = runs.Trainer(asked, named.dataset_of(asked), compiling.Programs())
    run = trainer.start()
    metered = metering.total(trainer.steps.training_bytes(run.network, batch))
    state_bytes = metering.total(metering.state_bytes(run.state))
    state, _ = loop.train_epoch(trainer, run, batch, 1, EXAMPLES // batch)
    run = dataclasses.replace(run, state=jax.block_until_ready(state))
    del state
    gc.collect()
    before = resident("VmRSS") - state_bytes  # the state is there while it is read
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    data_bytes = sum(s.images.nbytes + s.labels.nbytes for s in run.splits.values())
    data_bytes += 4 * EXAMPLES  # the order of the epoch
    with Sampling() as live:
        loop.train_epoch(trainer, run, batch, 2, EXAMPLES // batch)
    taken = resident("VmHWM") - before
    program = trainer.steps.training_program(run.network, batch)
    sampled = live.peak - data_bytes + program.memory_analysis().temp_size_in_bytes
    return {
        "model": model,
        "hidden": list(hidden),
        "batch": batch,
        "cores": cores,
        "metered": metered,
        "resident": taken,
        "resident_over_metered": taken / metered,
        "live_and_temporaries": sampled,
        "live_and_temporaries_over_metered": sampled / metered,
    }


def main() -> None:
    """Runs a process per size and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/meter_check.json"))
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        model, hidden, batch, cores = json.loads(flags.one)
        print(json.dumps(check(model, tuple(hidden), batch, cores)))
        return
    rows = []
    available = sorted({1, len(os.sched_getaffinity(0))})
    for size, cores in itertools.product(SIZES, available):
        one = json.dumps((*size, cores))
        command = [sys.executable, "-m", "benchmarks.meter_check", f"--one={one}"]
        environment = {**os.environ, **ALLOCATOR}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    head = record.head("python -m benchmarks.meter_check", jax.devices()[0].device_kind)
    record.write(flags.out, {**head, "rows": rows})


if __name__ == "__main__":
    main()
