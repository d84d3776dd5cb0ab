"""Kills runs at random moments, lets them go on, and compares them with runs that were not killed.

    python -m benchmarks.reliability.kills

Each kind of run is started, killed by SIGKILL at a moment drawn between its beginning, when it
takes its directory, and its end, or after the beginning of each of its phases; started again, and
so on; then it ends undisturbed. What it leaves must be, bit for bit, what a run leaves that was
never killed: all lines of metrics.jsonl, the summary and the results of a comparison without
clocks, and the arrays and host part of the newest checkpoint. The counts go to
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.reliability.calling import ROOT
from benchmarks.reliability.damaged import SMALL, left_in
from experiments import reports

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
# The file that opens each phase of a run that has several, in each of which it is killed in turn.
PHASES = {
    "compare": (
        "run/warm-up-seed0/.lock", "run/warm-up-seed0/checkpoints/000001",
        "run/warm-up-seed0/checkpoints/000008", "run/warm-up-seed0/summary.json",
        "results/dense-seed0.json", "results/l1-f0.5-seed0.json",
        "run/hp-lam0.5-seed0/checkpoints/000001", "run/hp-lam0.5-seed0/checkpoints/000011",
    ),
}  # fmt: skip
_WORKERS = 2
_PHASE = 0.7  # seconds from its beginning, at most
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


def run(kind: str, folder: Path, seconds: float | None = None, mark: str = "") -> tuple[int, float]:
    """(exit code, seconds) of a run.

    Args:
      kind: one of KINDS.
      folder: of the run.
      seconds: after which it is killed; None: it is not.
      mark: a path in the folder from whose appearance on the seconds count; '': from the start.
    """
    began = time.monotonic()
    running = subprocess.Popen(
        command(kind, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, start_new_session=True,
    )  # fmt: skip
    while mark and running.poll() is None and not (folder / mark).exists():
        time.sleep(0.001)
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    return running.returncode, time.monotonic() - began


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves, without what depends on time and place."""
    found = {name: _without_clocks(each) for name, each in left_in(folder).items()}
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
    """One kind of run, killed so many times; a run that ends meanwhile gives way to a new one."""
    whole = scratch / "whole"
    run(kind, scratch / "first")  # its programs are compiled and kept
    began = time.time()
    code, seconds = run(kind, whole)
    assert code == 0, kind
    begins = next(whole.rglob(".lock")).stat().st_ctime - began
    expected, moments, number, differs = left_by(whole), [], 0, []
    code, phases = -signal.SIGKILL, list(PHASES.get(kind, ()))
    while not differs and (code == -signal.SIGKILL or len(moments) < kills):
        killed, after, mark = scratch / f"killed{number}", draws.uniform(begins, seconds), ""
        if kind in PHASES:
            while phases and (killed / phases[0]).exists():
                phases.pop(0)
            mark, after = (phases.pop(0) if phases else None), draws.uniform(0, _PHASE)
        if mark is None or len(moments) == kills:
            after, mark = None, ""  # undisturbed
        code, _ = run(kind, killed, after, mark)
        if code == -signal.SIGKILL:
            moments.append({"after": round(after, 2), "there": _there(killed)})
            continue
        found = left_by(killed) if code == 0 else {}
        differs = sorted(name for name in expected if found.get(name) != expected[name])
        number, phases = number + 1, list(PHASES.get(kind, ()))
    return {
        "kind": kind,
        "commit": reports.commit(),
        "kills": len(moments),
        "runs": number,
        "moments": moments,
        "whole_seconds": round(seconds, 1),
        "exit_code": code,
        "differs": differs,
    }


def _there(folder: Path) -> str:
    """What a killed run had left: lines of each run, its newest checkpoint, its end; results."""
    found = []
    for lines in sorted(folder.rglob("metrics.jsonl")):
        place = lines.parent
        saved = [int(path.name) for path in place.glob("checkpoints/0*")]
        count = lines.read_bytes().count(b"\n")
        what = f"{place.relative_to(folder)}: {count} epochs"
        what += f", checkpoint {max(saved)}" if saved else ""
        found.append(what + (", summary" if (place / "summary.json").exists() else ""))
    results = len(list(folder.glob("results/*.json")))
    return "; ".join([*found, *([f"{results} results"] if results else [])]) or "nothing"


def main() -> None:
    """Tries every kind and writes what came of it."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", default="results/reliability/kills.json", type=Path)
    flags.add_argument("--kills", default=8, type=int, help="of each kind of run")
    flags.add_argument("--seed", default=0, type=int)
    flags.add_argument(
        "--kinds", default=",".join(KINDS), help="to try; of the others the file keeps what it has"
    )
    flags = flags.parse_args()
    head = record.head(f"python -m benchmarks.reliability.kills --kills={flags.kills}")

    def tried(kind: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            draws = random.Random(f"{flags.seed} {kind}")
            found = trial(kind, flags.kills, draws, Path(scratch))
        print(json.dumps(found), flush=True)
        return found

    with ThreadPoolExecutor(_WORKERS) as workers:
        fresh = list(workers.map(tried, flags.kinds.split(",")))
    kept = json.loads(flags.out.read_text())["runs"] if flags.out.exists() else []
    by_kind = {each["kind"]: each for each in [*kept, *fresh]}
    found = [by_kind[kind] for kind in KINDS if kind in by_kind]
    bad = [each["kind"] for each in found if each["exit_code"] or each["differs"]]
    total = {"kills": sum(each["kills"] for each in found), "not_as_if_never_killed": bad}
    record.write(flags.out, head | total | {"runs": found})
    print(json.dumps(total))


if __name__ == "__main__":
    main()
