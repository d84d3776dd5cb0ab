"""Dynamic hard pruning by the library beside the same method written naively in JAX.

    python -m benchmarks.naive --epochs=40 --out=results/speed/naive.json

MNIST, 784-300-100, at the setting of benchmarks/whole.py (any field can be overridden in the same
way). The naive peer is benchmarks/naive_dynhp.py, once with each of its two ways to the variance of
the gradients: `vmap` and `outer` (products written by hand). It cuts all arrays whenever a unit
dies and follows the batch rule exactly, so that it compiles in nearly every epoch. The sides are
processes that do an epoch in turn (benchmarks/turns.py). An epoch is training, pruning, evaluation
on the test set, and compiling, for which no cache is used.

A naive side that has taken --limit seconds stops there; its ratio is that of the epochs until then.
The JSON is written after every epoch.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record, turns, whole
from dynhp_jax.training import config
from experiments import commandline

KINDS = ("vmap", "outer")
MARKS = (10, 20, 30, 40, 60, 80, 100, 200, 400)


def main(argv: Sequence[str]) -> None:
    """Takes turns and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of a naive side")
    parser.add_argument("--out", type=Path, default=Path("results/speed/naive.json"))
    flags, overrides = parser.parse_known_args(argv[1:])
    settings = dataclasses.replace(whole.pruned(overrides), epochs=flags.epochs)
    values = json.dumps(config.to_dict(settings))
    commands = {"library": whole.library(settings)}
    commands |= {kind: turns.python("benchmarks.naive_turns", values, kind) for kind in KINDS}
    head = record.head(
        f"python -m benchmarks.naive --epochs={flags.epochs} --limit={flags.limit:g}"
    )
    head["config"] = whole.changed(settings)
    with turns.sides(commands) as running:
        answers = {name: [side.ready] for name, side in running.items()}
        head["device"] = answers["library"][0]["device"]
        for epoch in range(1, flags.epochs + 1):
            going = [kind for kind in KINDS if sum(a["wall"] for a in answers[kind]) < flags.limit]
            if not going:
                break
            for name in ("library", *going):
                answers[name].append(running[name].turn())
            result = {kind: beside(answers["library"], answers[kind]) for kind in KINDS}
            sides = {name: whole.account(all_) for name, all_ in answers.items()}
            record.write(flags.out, {**head, "library_over_naive": result, "sides": sides})
            so_far = ", ".join(
                f"{found['cumulative'][str(found['epochs'])]:.3f} ({kind})"
                for kind, found in result.items()
            )
            print(f"epoch {epoch}: of the naive time so far {so_far}", flush=True)


def beside(ours: Sequence[turns.Answer], theirs: Sequence[turns.Answer]) -> dict:
    """The ratios of the epochs that both have done."""
    walls = ([answer["wall"] for answer in all_[: len(theirs)]] for all_ in (ours, theirs))
    return {"epochs": len(theirs) - 1, **whole.ratios(*walls, MARKS)}


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
