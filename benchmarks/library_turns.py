"""The library as a side of a comparison (see benchmarks/turns.py): a turn is an epoch.

    python -m benchmarks.library_turns CONFIG [train]

CONFIG is a config as JSON. With `train` a turn's time is that of training alone; what is left of
the epoch (pruning, resizing, evaluating) is not done. Nothing is read from a cache of compiled
programs unless the config names a directory for it, and no checkpoint is written.
"""

import dataclasses
import json
import sys
import time

import jax

from benchmarks import turns
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import program_cache, programs
from dynhp_jax.training.run import loop
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer

KEPT = (
    "epoch", "train_loss", "cross_entropy", "penalty", "test_error", "units", "parameters",
    "model_kib", "batch_size", "next_batch", "compile_seconds", "compilations",
)  # fmt: skip


def main() -> None:
    """Prepares the run and serves."""
    settings = config.from_dict(json.loads(sys.argv[1]))
    turn = train_only if sys.argv[2:] == ["train"] else whole_epoch
    program_cache.use_cache(settings.compiling.cache_dir or "none")
    dataset = build.dataset_of(settings)
    began = time.perf_counter()
    trainer = Trainer(settings, dataset, programs.Programs())
    held = [trainer.start()]
    jax.block_until_ready(held[0].state)
    ready = {
        "wall": time.perf_counter() - began,
        "compile_seconds": trainer.programs.seconds,
        "compilations": trainer.programs.compilations,
        "device": jax.devices()[0].device_kind,
    }

    def answer() -> turns.Answer:
        held[0], said = turn(trainer, held[0])
        return said

    turns.serve(ready, answer)


def whole_epoch(trainer: Trainer, run: Run) -> tuple[Run, turns.Answer]:
    """As a run of the library does it."""
    began = time.perf_counter()
    run, record = loop.advance(trainer, run)
    jax.block_until_ready(run.state)
    return run, {"wall": time.perf_counter() - began} | {name: record[name] for name in KEPT}


def train_only(trainer: Trainer, run: Run) -> tuple[Run, turns.Answer]:
    """Training timed; evaluation after it, not timed."""
    steps, epoch = trainer.examples // run.batch_in_use, run.epoch + 1
    began = time.perf_counter()
    state, tally = loop.train_epoch(trainer, run, run.batch_in_use, epoch, steps)
    jax.block_until_ready(state)
    wall = time.perf_counter() - began
    test = loop.evaluate(trainer, run.network, state, run.splits["test"], "test", run.chunk)
    observations = steps * (run.batch_in_use if trainer.config.gates.per_example else 1)
    return dataclasses.replace(run, state=state, epoch=epoch), {
        "wall": wall,
        "epoch": epoch,
        "cross_entropy": tally.data_loss / steps,
        "penalty": tally.penalty / steps,
        "active": sum(float(count.sum()) for count in tally.counts.values()) / observations,
        "test_error": test["error"],
    }


if __name__ == "__main__":
    main()
