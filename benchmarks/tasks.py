"""The tasks beside classification: the dense network beside the one that DynHP prunes.

    python -m benchmarks.tasks --choose --out=results/tasks/lambda.json
    python -m benchmarks.tasks --out=results/tasks/tasks.json

Each config of TASKS is trained with the methods `dense` and `dynhp`, with the same held-out part of
the training set. `--choose` trains `dynhp` with each lambda of LAMBDAS and writes down what is
found on held-out examples alone, by which the configs' own lambda was chosen. The JSON is written
after every run, and a run that is there already is not trained again.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from configs import diabetes, digit_scenes, digit_segments, python_topics
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.trainer import Trainer
from experiments import reports

TASKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (diabetes, digit_segments, digit_scenes, python_topics)
}
LAMBDAS = (0.03, 0.1, 0.3)
SEEDS = (0,)


def settings(task: str, method: str, seed: int, lam: float | None) -> Config:
    """The config of one run; None for its own lambda."""
    asked = configuration.from_config_dict(TASKS[task].get_config())
    penalty = asked.penalty if lam is None else dataclasses.replace(asked.penalty, lam=lam)
    return dataclasses.replace(asked, method=method, seed=seed, penalty=penalty)


def run(task: str, method: str, seed: int, lam: float | None, splits: tuple[str, ...]) -> dict:
    """Trains and says what was found on these splits after the last epoch."""
    asked = settings(task, method, seed, lam)
    began = time.perf_counter()
    trainer = Trainer(asked, build.dataset_of(asked), Programs())
    state = trainer.start()
    while state.epoch < asked.epochs:
        state, last = loop.advance(trainer, state)
    names = [trainer.whole.task.called, *trainer.whole.task.metrics]
    found: dict[str, Any] = {
        "task": task,
        "method": method,
        "seed": seed,
        "lam": asked.penalty.lam,
        "epochs": asked.epochs,
        "parameters": last["parameters"],
        "of": trainer.whole_parameters,
        "units": last["units"],
        "batch_size": last["batch_size"],
        "seconds": time.perf_counter() - began,
    }
    found |= {f"{split}_{name}": last[f"{split}_{name}"] for split in splits for name in names}
    return found


def table(rows: list[dict]) -> str:
    """A line for each run."""
    lines = [("task", "method", "seed", "lambda", "parameters", "batch", "found", "seconds")]
    for row in rows:
        found = {name: value for name, value in row.items() if name.startswith(("val", "test_"))}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        size = f"{row['parameters']:,} of {row['of']:,}"
        lines.append(
            (row["task"], row["method"], str(row["seed"]), f"{row['lam']:g}", size,
             str(row["batch_size"]), shown, f"{row['seconds']:.0f}")
        )  # fmt: skip
    return "\n".join(reports.columns(lines))


def main() -> None:
    """Trains what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="each lambda, on held-out examples")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names, separated by commas")
    parser.add_argument("--methods", default="dense,dynhp", help="likewise")
    parser.add_argument("--out", default="results/tasks/tasks.json", help="the JSON")
    asked = parser.parse_args()
    if asked.choose:
        cells = [("dense", 0, None), *(("dynhp", 0, lam) for lam in LAMBDAS)]
        splits: tuple[str, ...] = ("validation",)
    else:
        cells = [(method, seed, None) for method in asked.methods.split(",") for seed in SEEDS]
        splits = ("validation", "test")
    out = Path(asked.out)
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    there = {(row["task"], row["method"], row["seed"], row["lam"]) for row in rows}
    command = "python -m benchmarks.tasks" + " --choose" * asked.choose
    head = record.head(command, jax.devices()[0].device_kind)
    for task in asked.tasks.split(","):
        for method, seed, lam in cells:
            if (task, method, seed, settings(task, method, seed, lam).penalty.lam) not in there:
                rows.append(run(task, method, seed, lam, splits))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                record.write(out, head | {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
