"""From process start to the first training step, without and with compiled programs on disk.

    python -m benchmarks.start --out=results/speed/start.json

Every repeat is a process that reads the data from its cache, analyses the model, compiles what a
run compiles before its first step (784-300-100 on Fashion-MNIST, dynamic hard pruning), and takes
one step. Cold: the directory of compiled programs is empty; warm: the cold process has filled it.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record

REPEATS = 5
PROGRAM = """
import sys, time
import jax, numpy as np
from configs import fmnist
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
program_cache.use_cache(sys.argv[1])
settings = config.from_config_dict(fmnist.get_config())
trainer = Trainer(settings, build.dataset_of(settings), Programs())
run = trainer.start()
jax.block_until_ready(loop.train_epoch(trainer, run, run.batch_in_use, 1, 1))
print(time.time())
"""


def seconds(cache: str) -> float:
    """Of one process, until its first step is done."""
    start = time.time()
    command = [sys.executable, "-c", PROGRAM, cache]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1]) - start


def main() -> None:
    """Measures cold and warm in turn and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/speed/start.json"))
    flags = parser.parse_args()
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as cache:
            for kind, all_ in found.items():
                all_.append(seconds(cache))
                print(f"{kind}: {all_[-1]:.2f} s", flush=True)
    summary = {
        kind: {"median": statistics.median(all_), "seconds": all_} for kind, all_ in found.items()
    }
    record.write(flags.out, {**record.head("python -m benchmarks.start"), **summary})


if __name__ == "__main__":
    main()
