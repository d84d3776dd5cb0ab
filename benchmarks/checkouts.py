"""Two checkouts of the project side by side: whether a change made runs slower.

    git worktree add ../before OLD-COMMIT
    python -m benchmarks.checkouts --before=../before

In turn, a few times: a process that imports what every user imports (`find_groups`), and a
training run of each config as a process of its own, in the one checkout and then in the other. All
find their programs in the cache of compiled programs after the first round, which is left out. What
is held against each other are processor seconds, which depend less on what else the machine does:
of the import, of the whole program, and the epochs' own seconds as metrics.jsonl has them. That the
numbers of both runs are the same, bit for bit, is checked beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "digits": ["--config.epochs=20"],
    "mnist": ["--config.epochs=3"],
    "fmnist_lenet": ["--config.epochs=2", "--config.data.examples=3000"],
}
IMPORT = (
    "import time, jax, jax.numpy, optax; before = time.process_time();"
    "{}; print(time.process_time() - before)"
)
WAYS = {  # the public interface, or where it was before there was one
    "before": "from dynhp_jax.groups import find_groups",
    "after": "from dynhp_jax import find_groups",
}
CLOCKS = {"seconds", "compile_seconds", "compilations", "allocated", "allocated_kib"}


def spent(command: list[str], folder: Path) -> tuple[float, str]:
    """Processor seconds of a process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(
        getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime")
    ), done.stdout


def trained(folder: Path, name: str, flags: list[str]) -> tuple[float, float, list[dict[str, Any]]]:
    """A run: processor seconds of the program, seconds of its epochs, and its records."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "experiments.train", f"--config=configs/{name}.py", *flags]
        seconds, _ = spent([*command, f"--workdir={workdir}/run"], folder)
        lines = Path(workdir, "run", "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return seconds, sum(each["seconds"] for each in records), records


def main() -> None:
    """Runs both in turn and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/speed/checkouts.json"))
    flags = parser.parse_args()
    folders = {"before": flags.before.resolve(), "after": ROOT}
    found: dict[str, dict[str, list[float]]] = {}
    same = True
    for turn in range(flags.rounds + 1):
        records: dict[str, list] = {}
        # Each goes first every second time, so that what the machine does besides meets both.
        for side, folder in list(folders.items())[:: -1 if turn % 2 else 1]:
            seconds = float(spent([sys.executable, "-c", IMPORT.format(WAYS[side])], folder)[1])
            values = {"import": seconds}
            for name, more in RUNS.items():
                whole, epochs, lines = trained(folder, name, more)
                values |= {f"{name}, program": whole, f"{name}, epochs": epochs}
                records.setdefault(name, []).append(lines)
            if turn:  # in the first one programs are compiled
                for what, value in values.items():
                    found.setdefault(what, {}).setdefault(side, []).append(value)
        same = same and all(_alike(*pair) for pair in records.values())
        print(f"round {turn} of {flags.rounds}", flush=True)
    rows = {
        what: {
            **{side: record.spread(values) for side, values in sides.items()},
            "after_over_before": record.spread(
                [b / a for a, b in zip(sides["before"], sides["after"], strict=True)]
            ),
        }
        for what, sides in found.items()
    }
    git = ["git", "rev-parse", "HEAD"]
    other = subprocess.run(git, cwd=flags.before, capture_output=True, text=True, check=True)
    head = record.head(f"python -m benchmarks.checkouts --rounds={flags.rounds} --before=...")
    before = {"before": other.stdout.strip(), "same_numbers": same}
    record.write(flags.out, head | before | {"rounds": flags.rounds, "seconds": rows})
    for what, row in rows.items():
        print(f"{what}: {row['after_over_before']['median']:.2f} of the time before")


def _alike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Whether both have the same numbers, but for what only one of them reports."""
    return len(one) == len(other) and all(
        a[name] == b[name]
        for a, b in zip(one, other, strict=True)
        for name in (a.keys() & b.keys()) - CLOCKS
    )


if __name__ == "__main__":
    main()
