"""Bytes of fine-tuning steps by XLA's count, and by the resident set of a process that runs them.

    python -m benchmarks.finetune_resident

Linux. Every step of six convolutions (`benchmarks.finetune_steps`) is compiled and run in a process
of its own, on a mini-batch so large that its bytes can be seen beside what else the process holds.
The peak of the resident set while it runs, above what was resident before it, knows nothing of
XLA's buffer assignment: it is the kernel's count of pages. It has what libraries take, too.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import finetune_steps, record

BATCH = 256
STEPS = ("forward only: the floor", "full, BN frozen", "1/8 of all rows", "1/8 of all rows, bits",
         "head")  # fmt: skip
# What is freed goes back at once, so that nothing runs in memory that was resident before.
GIVING_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}


def _resident(name: str) -> int:
    """Bytes by a line of the kernel's: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def in_this_process(name: str, batch: int) -> dict[str, Any]:
    """The bytes of a step, of which nothing else has run here."""
    apply, variables, (x, labels) = finetune_steps.six_convolutions(batch)
    steps = dict(finetune_steps.steps_of_convolutions(apply, variables, x))
    step = steps[name]
    program = jax.jit(step.function, donate_argnums=0)
    lowered = program.lower(variables, *step.more, x, labels)
    compiled = lowered.compile(finetune_steps.COMPILED)
    given = jax.block_until_ready(jax.tree.map(jnp.copy, (variables, step.more, x, labels)))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    variables, more, x, labels = given
    jax.block_until_ready(compiled(variables, *more, x, labels))
    return {
        "step": name,
        "temporaries, MiB": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2),
        "resident, MiB": round((_resident("VmHWM") - before) / 2**20, 2),
    }


def main() -> None:
    """Runs a process for each step and writes the JSON; or is such a process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=BATCH, help="mini-batch")
    parser.add_argument("--step", default="", help="only print this one's bytes, of this process")
    parser.add_argument("--out", type=Path, default=Path("results/finetune/resident.json"))
    flags = parser.parse_args()
    if flags.step:
        print(json.dumps(in_this_process(flags.step, flags.batch)))
        return
    rows = []
    for name in STEPS:
        command = [sys.executable, "-m", "benchmarks.finetune_resident", f"--step={name}"]
        said = subprocess.run(
            [*command, f"--batch={flags.batch}"], env=os.environ | GIVING_BACK, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        rows.append(json.loads(said.stdout))
        print(said.stdout, end="", flush=True)
        head = record.head("python -m benchmarks.finetune_resident", jax.devices()[0].device_kind)
        record.write(flags.out, {**head, "batch": flags.batch, "rows": rows})


if __name__ == "__main__":
    main()
