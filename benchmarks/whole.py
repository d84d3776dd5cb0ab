"""A whole run of dynamic hard pruning beside dense training for as many epochs, in wall time.

    python -m benchmarks.whole --epochs=400 --out=results/speed/whole.json

MNIST, 784-300-100. The two runs are processes that do an epoch in turn (benchmarks/turns.py).
An epoch is all of it but checkpoints and logs: training, pruning, resizing, evaluation on the test
set, and compiling, for which no cache is used. Preparing the run is counted as epoch 0; reading the
data is not.

Dynamic hard pruning is configs/mnist.py with the overrides SMALL, chosen to end under 250 KiB
(0.25 in the paper's unit); any field can be overridden, as in training: --config.batch.alpha=0.8.
Dense training is the library's, at a mini-batch of 128, without what only pruning needs: no gates,
no variance of the gradients, no budget. The JSON is written after every epoch.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record, turns
from dynhp_jax.training import config
from experiments import commandline

SMALL = ("--config.penalty.lam=0.15", "--config.batch.alpha=0.5")
DENSE_BATCH = 128
MARKS = (10, 25, 50, 100, 200, 400)


def pruned(overrides: Sequence[str]) -> config.Config:
    """configs/mnist.py with SMALL, and with flags such as --config.penalty.lam=0.2."""
    argv = ["benchmark", "--config=configs/mnist.py", *SMALL, *overrides]
    values, _ = commandline.parse(argv, with_config=True)
    return config.from_config_dict(values)


def dense(settings: config.Config) -> config.Config:
    """The same network, data, optimizer and seed, without what only pruning needs."""
    return dataclasses.replace(
        settings,
        method="dense",
        batch=config.Batch(size=DENSE_BATCH, variance="none"),
        memory=config.Memory(budget="none"),
    )


def changed(settings: config.Config) -> dict[str, Any]:
    """{dotted name: value} of the fields that are not at their defaults, without paths."""
    usual = config.flatten(config.Config())
    return {
        name: value
        for name, value in config.flatten(settings).items()
        if value != usual[name] and name.rpartition(".")[2] not in ("dir", "cache_dir")
    }


def library(settings: config.Config, *arguments: str) -> list[str]:
    """The command of a side that trains by the library."""
    return turns.python(
        "benchmarks.library_turns", json.dumps(config.to_dict(settings)), *arguments
    )


def ratios(ours: Sequence[float], theirs: Sequence[float], marks: Sequence[int]) -> dict[str, Any]:
    """Of wall seconds by epoch, epoch 0 being the preparations.

    >>> found = ratios([1.0, 1.0, 1.0], [2.0, 2.0, 1.0], marks=(1, 2))
    >>> found["cumulative"], found["by_block"]["2"]["median"], found["below_1_from"]
    ({'1': 0.5, '2': 0.6}, 1.0, 1)

    Args:
      ours, theirs: seconds, of equally many epochs.
      marks: epochs at which blocks end.

    Returns:
      `cumulative`: {epoch: ratio of the sums until then}, at the marks and the last epoch;
      `by_block`: {'first to last epoch': median and quartiles of the epochs' ratios};
      `below_1_from`: the first epoch from which on the cumulative ratio is below 1, or None.
    """
    last = len(ours) - 1
    ends = [mark for mark in marks if mark < last] + [last] * (last > 0)
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    running = [sum(ours[: k + 1]) / sum(theirs[: k + 1]) for k in range(last + 1)]
    blocks, first = {}, 1
    for end in ends:
        blocks[f"{first} to {end}" if first < end else f"{end}"] = record.spread(
            each[first : end + 1]
        )
        first = end + 1
    above = [epoch for epoch, ratio in enumerate(running) if ratio >= 1]
    from_epoch = max(above, default=0) + 1
    return {
        "cumulative": {str(end): running[end] for end in ends},
        "by_block": blocks,
        "below_1_from": from_epoch if from_epoch <= last else None,
    }


def account(answers: Sequence[turns.Answer]) -> dict[str, Any]:
    """What a side's JSON says: its end, its compilations, the wall seconds of every epoch."""
    last = answers[-1]
    kept = ("test_error", "model_kib", "units", "batch_size", "cross_entropy")
    return {
        **{name: last[name] for name in kept},
        "seconds": sum(answer["wall"] for answer in answers),
        "compile_seconds": sum(answer["compile_seconds"] for answer in answers),
        "compilations": last["compilations"],
        "seconds_by_epoch": [round(answer["wall"], 4) for answer in answers],
    }


def main(argv: Sequence[str]) -> None:
    """Takes turns and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("results/speed/whole.json"))
    flags, overrides = parser.parse_known_args(argv[1:])
    settings = dataclasses.replace(pruned(overrides), epochs=flags.epochs)
    both = {"dynhp": settings, "dense": dense(settings)}
    head = record.head(f"python -m benchmarks.whole --epochs={flags.epochs}")
    head["config"] = {name: changed(each) for name, each in both.items()}
    with turns.sides({name: library(each) for name, each in both.items()}) as running:
        answers = {name: [side.ready] for name, side in running.items()}
        head["device"] = answers["dynhp"][0]["device"]
        for epoch in range(1, flags.epochs + 1):
            for name, side in running.items():
                answers[name].append(side.turn())
            walls = ([answer["wall"] for answer in all_] for all_ in answers.values())
            result = {"epochs": epoch, "dynhp_over_dense": ratios(*walls, MARKS)}
            sides = {name: account(all_) for name, all_ in answers.items()}
            record.write(flags.out, {**head, **result, **sides})
            cumulative = result["dynhp_over_dense"]["cumulative"][str(epoch)]
            print(f"epoch {epoch}: {cumulative:.3f} of the dense run's time so far", flush=True)


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
