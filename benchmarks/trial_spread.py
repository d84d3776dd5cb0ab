"""How often trials of one program, each in a process of its own, come to one figure.

    python -m benchmarks.trial_spread --out=results/memory/trials.json

What a CPU's libraries take is measured by a trial (`dynhp_jax.memory.trials`), and threads meet in
another order each time. Training steps and evaluation of a LeNet-5 and a narrow ResNet-20 are
compiled once, as without a budget, and then tried in TRIALS processes, as runs without a cache
would. The figures, before and after they are rounded up, and the processor seconds of one run are
in the JSON.
"""

import argparse
import collections
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from benchmarks import record
from dynhp_jax.memory import trial_process, trials
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.run.trainer import Trainer

TRIALS = 20
SIZES = (  # data, model, mini-batch, examples that are evaluated at once
    ("fashion_mnist", config.Model(name="lenet"), 64, 1000),
    ("cifar10", config.Model(name="resnet", depth=20, width=0.25), 32, 250),
)


def programs(data: str, model: config.Model, batch: int, chunk: int) -> dict[str, tuple]:
    """Name -> what `trial_process.took` takes, of training and evaluation."""
    asked = config.Config(
        method="sp",
        data=config.Data(name=data, examples=4 * batch),
        model=model,
        batch=config.Batch(size=batch),
        memory=config.Memory("xla", "none"),
    )
    dataset = build.dataset_of(asked)
    few = {"x_test": dataset.x_test[:chunk], "y_test": dataset.y_test[:chunk]}
    trainer = Trainer(asked, dataclasses.replace(dataset, **few), Programs())
    found = {}
    for what, compiled in (
        (f"training with {batch}", trainer.steps.training_program(trainer.whole, batch)),
        (f"evaluation of {chunk}", trainer.steps.evaluation_program(trainer.whole, chunk, "test")),
    ):
        program, inputs, outputs = serialize_executable.serialize(compiled)
        found[f"{model.name}, {what}"] = program, inputs.num_leaves, outputs.num_leaves, 0.0
    return found


def row(program: str, figures: list[tuple[int, float]]) -> dict[str, Any]:
    """Of one program: how many trials came to the figure that most came to, and their times."""
    sizes, seconds = zip(*figures, strict=True)
    counts = collections.Counter(map(trials.rounded, sizes))
    return {
        "program": program,
        "trials": len(figures),
        "of_one_figure": max(counts.values()),
        "rounded": dict(sorted(counts.items())),
        "bytes": sorted(sizes),
        "processor_seconds": sorted(seconds),
    }


def main() -> None:
    """Compiles, tries in a process after the other, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory/trials.json"))
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        asked = pickle.loads(Path(flags.one).read_bytes())
        print(json.dumps({name: trial_process.took(*what) for name, what in asked.items()}))
        return
    asked = {name: what for size in SIZES for name, what in programs(*size).items()}
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in asked}
    head = record.head("python -m benchmarks.trial_spread", jax.devices()[0].device_kind)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pickle.dumps(asked))
        file.flush()
        command = [sys.executable, "-m", "benchmarks.trial_spread", f"--one={file.name}"]
        environment = os.environ | trials.SETTINGS
        for _ in range(TRIALS):
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            for name, figures in json.loads(done.stdout.splitlines()[-1]).items():
                found[name].append(tuple(figures))
            record.write(flags.out, {**head, "rows": [row(*item) for item in found.items()]})
    for name, figures in found.items():
        print(name, f"{row(name, figures)['of_one_figure']} of {len(figures)}")


if __name__ == "__main__":
    main()
