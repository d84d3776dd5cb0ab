"""An epoch of training with gates, by the library and with Louizos et al.'s gate layer in PyTorch.

    python -m benchmarks.gates_torch --torch-python=VENV/bin/python

(VENV holds requirements-bench.txt; without the flag this Python has to.) MNIST, 784-300-100, Adam,
on the CPU, a mini-batch of 128, lambda 0.1, nothing pruned; gates for each mini-batch and for each
example. On both sides an epoch is a new order of the examples, and in every step a draw of the
gates, the penalty, an update, and a count of the open gates; neither estimates the variance of the
gradients. The sides are processes that do an epoch in turn (benchmarks/turns.py); compiling and the
first epoch of each are not counted. PyTorch's side is benchmarks/l0_torch.py: it tries out whether
gates multiply kernels or activations, torch.compile or not, and two implementations of Adam, and
takes the fastest. The JSON has both sides' losses; if the last epoch's are not similar, the
benchmark fails. Written to results/speed/gates_torch.json after every epoch.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import record, turns, whole
from dynhp_jax.common.errors import UserError
from dynhp_jax.training import build, config
from experiments import commandline

HIDDEN, LAM = (300, 100), 0.1
SIMILAR = {"cross_entropy": 0.2, "penalty": 0.02, "active": 0.02}  # relative


def settings_for(per_example: bool, examples: int, batch: int) -> config.Config:
    """The library's side: soft pruning, whose gates are never cut."""
    return config.Config(
        method="sp",
        data=config.Data(name="mnist", examples=examples),
        model=config.Model(hidden=HIDDEN),
        gates=config.Gates(per_example=per_example),
        penalty=config.Penalty(lam=LAM),
        batch=config.Batch(size=batch, variance="none"),
        memory=config.Memory(budget="none"),
    )


def save_data(settings: config.Config, path: Path) -> None:
    """For PyTorch: examples as rows, labels as 64-bit integers."""
    dataset, arrays = build.dataset_of(settings), {}
    for split in ("train", "test"):
        images = np.asarray(getattr(dataset, f"x_{split}"))
        arrays[f"x_{split}"] = images.reshape(len(images), -1)
        arrays[f"y_{split}"] = np.asarray(getattr(dataset, f"y_{split}"), np.int64)
    np.savez(path, **arrays)


def differing(ours: turns.Answer, theirs: turns.Answer) -> list[str]:
    """Which of the losses differ more than chance would explain.

    >>> one = {"cross_entropy": 0.1, "penalty": 0.2, "active": 900.0}
    >>> differing(one, one | {"penalty": 0.3})
    ['penalty']
    """
    return [name for name, share in SIMILAR.items() if abs(ours[name] / theirs[name] - 1) > share]


def account(side: turns.Side, epochs: Sequence[turns.Answer]) -> dict:
    """Seconds and what the last epoch came to; the first epoch, which warms up, is left out."""
    last = {name: value for name, value in epochs[-1].items() if name != "wall"}
    seconds = [epoch["wall"] for epoch in epochs[1:]]
    return {"seconds": record.spread(seconds), "last": last, "ready": side.ready}


def main(argv: Sequence[str]) -> None:
    """Takes turns and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=11, help="timed ones, after one that is not")
    parser.add_argument("--examples", type=int, default=0, help="the first so many; 0: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=Path("results/speed/gates_torch.json"))
    flags = parser.parse_args(argv[1:])
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the library's side; PyTorch's knows nothing else
    head = record.head(
        f"python -m benchmarks.gates_torch --epochs={flags.epochs} --batch={flags.batch}"
        + (f" --examples={flags.examples}" if flags.examples else "")
        + (" --no-compile" if flags.no_compile else "")
        + " --torch-python=VENV/bin/python"
    )
    results, different = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for per_example in (False, True):
            name = "per example" if per_example else "per mini-batch"
            settings = settings_for(per_example, flags.examples, flags.batch)
            data = Path(folder, "data.npz")
            save_data(settings, data)
            asked = {
                "hidden": HIDDEN,
                "batch": flags.batch,
                "lam": LAM,
                "learning_rate": settings.optimizer.learning_rate,
                "per_example": per_example,
                "seed": settings.seed,
                "compile": not flags.no_compile,
            }
            commands = {
                "library": whole.library(settings, "train"),
                "torch": turns.python(
                    "benchmarks.l0_torch",
                    str(data),
                    json.dumps(asked),
                    interpreter=flags.torch_python,
                ),
            }
            with turns.sides(commands) as running:
                answers = {side: [] for side in running}
                for epoch in range(flags.epochs + 1):
                    for side, process in running.items():
                        answers[side].append(process.turn())
                    if epoch == 0:
                        continue
                    ratios = [
                        theirs["wall"] / ours["wall"]
                        for ours, theirs in zip(*answers.values(), strict=True)
                    ]
                    different[name] = differing(*(all_[-1] for all_ in answers.values()))
                    results[name] = {
                        "torch_over_library": record.spread(ratios[1:]),
                        "differing": different[name],
                        **{side: account(running[side], answers[side]) for side in running},
                    }
                    record.write(flags.out, {**head, **results})
                    print(f"{name}, epoch {epoch}: {ratios[-1]:.2f}", flush=True)
    if any(different.values()):
        raise UserError(f"the two sides do not train alike; what differs: {different}")


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
