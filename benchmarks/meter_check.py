"""Holds the metered bytes of training steps against the resident set of the process (Linux).

    python -m benchmarks.meter_check --out=results/memory/meter_check.json

A process per size: it loads the data, compiles, reads its resident set, makes the state, trains for
some steps and reads the highest resident set since. The difference is what training took; data and
programs were there before. Sizes are 100 MB and more, so that what the allocator keeps for itself
does not matter.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from dynhp_jax import compiling, config, loop, metering, runs
from experiments import reports

SIZES = (((2000, 1000), 512), ((4000, 1000), 1024), ((1000, 500), 8000))
EXAMPLES = 8000


def resident(name: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (highest since the last reset)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


def check(hidden: tuple[int, ...], batch: int) -> dict:
    """Metered and resident bytes of one size, in this process."""
    asked = config.Config(
        method="sp",
        data=config.Data(name="fashion_mnist", examples=EXAMPLES),
        model=config.Model(hidden=hidden),
        batch=config.Batch(size=batch),
        memory=config.Memory("xla", "none"),
    )
    trainer = runs.Trainer(asked, runs.dataset_of(asked), compiling.Programs())
    run = trainer.start()
    metered = metering.total(trainer.budget.training_bytes(run.network, batch))
    state_bytes = metering.total(metering.state_bytes(run.state))
    trainer.order(np.int32(1))
    gc.collect()
    before = resident("VmRSS") - state_bytes  # the state is made, and resident
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    loop.train_epoch(trainer, run, batch, 1, EXAMPLES // batch)
    taken = resident("VmHWM") - before
    return {
        "hidden": list(hidden),
        "batch": batch,
        "metered": metered,
        "resident": taken,
        "resident_over_metered": taken / metered,
    }


def main() -> None:
    """Runs a process per size and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/meter_check.json"))
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        hidden, batch = json.loads(flags.one)
        print(json.dumps(check(tuple(hidden), batch)))
        return
    rows = []
    for size in SIZES:
        command = [sys.executable, "-m", "benchmarks.meter_check", f"--one={json.dumps(size)}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "command": "python -m benchmarks.meter_check",
        "commit": reports.commit(),
        "versions": reports.versions(),
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}",
    }
    flags.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
