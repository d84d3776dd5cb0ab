"""Kills runs at random moments, lets them go on, and compares them with runs that were not killed.

    python -m benchmarks.reliability.kills

Each kind of run is started, killed by SIGKILL after a time drawn between nothing and what a whole
run takes, started again, and so on; then it ends undisturbed. What it leaves must be, bit for bit,
what a run leaves that was never killed: all lines of metrics.jsonl without clocks, and the arrays
and host part of the newest checkpoint; of a comparison its results. The counts go to
results/reliability/kills.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.reliability.calling import ROOT
from benchmarks.reliability.directories import SMALL, records_of

EPOCHS = "--config.epochs=8"
KINDS = {
    "dynhp": ("train", []),
    "hp": ("train", ["--config.method=hp"]),
    "scores": (
        "train",
        ["--config.method=scores", "--config.scores.criterion=taylor", "--config.scores.start=2",
         "--config.scores.fraction=0.5", "--config.scores.end=6", "--config.batch.variance=none",
         "--config.scores.schedule=each_epoch", "--config.data.validation=0.2"],
    ),
    "mean of weights": ("train", ["--config.optimizer.ema=1.5"]),
    "distillation": (
        "train", ["--config.optimizer.ema=1.5", "--config.distillation.weight=0.5"]
    ),
    "sweep": ("sweep", ["--seeds=0,1"]),
    "compare": (
        "compare",
        ["--config.data.name=digits", "--config.data.examples=0", "--config.data.validation=0.2",
         "--config.model.name=mlp", "--config.model.hidden=(8,)", "--config.compare.test=0",
         "--config.compare.criteria=('l1','taylor')", "--config.compare.fractions=(0.5,)",
         "--config.compare.seeds=(0,)", "--config.compare.methods=('hp',)",
         "--config.compare.lams=(0.5,)", "--config.compare.epochs=3"],
    ),
}  # fmt: skip
_CHANGES = {"seconds", "compile_seconds", "compilations", "compile_waited", "score_seconds",
            "commit", "versions", "machine", "segments", "side_by_side", "runs"}  # fmt: skip


def command(kind: str, folder: Path) -> list[str]:
    """The command line of a run of this kind in a folder."""
    program, more = KINDS[kind]
    flags = [*SMALL, *more, EPOCHS]
    if program == "compare":
        flags = [f"--config={ROOT}/configs/compare_fmnist.py", *more, EPOCHS,
                 f"--results={folder / 'results'}"]  # fmt: skip
    return [sys.executable, "-m", f"experiments.{program}", *flags, f"--workdir={folder / 'run'}"]


def run(kind: str, folder: Path, seconds: float | None = None) -> tuple[int, float]:
    """(exit code, seconds) of a run; with `seconds` it is killed then."""
    began = time.monotonic()
    running = subprocess.Popen(
        command(kind, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, start_new_session=True,
    )  # fmt: skip
    try:
        running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    return running.returncode, time.monotonic() - began


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves, without what depends on time and place."""
    found: dict[str, Any] = records_of(folder)
    for file in sorted(folder.glob("results/**/*.json")):
        found[str(file.relative_to(folder))] = _without_clocks(json.loads(file.read_text()))
    for checkpoints in sorted(folder.rglob("checkpoints")):
        newest = max(path for path in checkpoints.iterdir() if path.name.isdigit())
        name = str(newest.relative_to(folder))
        found[name] = _without_clocks(json.loads((newest / "host.json").read_text()))
        found[f"{name}/state"] = _arrays(newest / "state")
    return found


def _without_clocks(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_clocks(v) for k, v in values.items() if k not in _CHANGES}
    return [_without_clocks(each) for each in values] if isinstance(values, list) else values


def _arrays(state: Path) -> str:
    """A digest of the arrays of a checkpoint, read by orbax as NumPy's."""
    read = (
        "import sys, hashlib, numpy as np, jax, orbax.checkpoint as ocp\n"
        "tree = ocp.StandardCheckpointer().restore(sys.argv[1])\n"
        "digest = hashlib.sha256()\n"
        "for path, leaf in jax.tree_util.tree_leaves_with_path(tree):\n"
        "    leaf = np.asarray(leaf)\n"
        "    digest.update(f'{path}{leaf.dtype}{leaf.shape}'.encode() + leaf.tobytes())\n"
        "print(digest.hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", read, str(state.absolute())],
        capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]


def trial(kind: str, kills: int, draws: random.Random, scratch: Path) -> dict[str, Any]:
    """One kind of run, killed so many times."""
    whole, killed = scratch / "whole", scratch / "killed"
    run(kind, scratch / "first")  # its programs are compiled and kept
    code, seconds = run(kind, whole)
    assert code == 0, kind
    expected, times = left_by(whole), []
    while len(times) < kills:
        after = draws.uniform(0, seconds)
        code, _ = run(kind, killed, after)
        if code == -signal.SIGKILL:
            times.append(round(after, 2))
        elif code == 0:  # it was faster than the whole one; a longer one begins again
            same = left_by(killed) == expected
            if not same:
                break
            killed = scratch / f"killed{len(times)}"
        else:
            break
    code, _ = run(kind, killed)
    found = left_by(killed) if code == 0 else {}
    differs = sorted(name for name in expected if found.get(name) != expected[name])
    return {"kind": kind, "kills": len(times), "after_seconds": times, "whole_seconds": seconds,
            "exit_code": code, "differs": differs}  # fmt: skip


def main() -> None:
    """Tries every kind and writes what came of it."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", default="results/reliability/kills.json", type=Path)
    flags.add_argument("--kills", default=8, type=int, help="of each kind of run")
    flags.add_argument("--seed", default=0, type=int)
    flags = flags.parse_args()
    draws, found = random.Random(flags.seed), []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            found.append(trial(kind, flags.kills, draws, Path(scratch)))
        print(json.dumps(found[-1]), flush=True)
    head = record.head(f"python -m benchmarks.reliability.kills --kills={flags.kills}")
    bad = [each["kind"] for each in found if each["exit_code"] or each["differs"]]
    total = {"kills": sum(each["kills"] for each in found), "not_as_if_never_killed": bad}
    record.write(flags.out, head | total | {"runs": found})
    print(json.dumps(total))


if __name__ == "__main__":
    main()
