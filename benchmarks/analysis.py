"""How long it takes to find the groups of a ResNet-50 and to cut it to half of every exact group.

    python -m benchmarks.analysis                                   # this library alone
    python -m benchmarks.analysis --torch-python VENV/bin/python    # beside Torch-Pruning

(VENV holds requirements-bench.txt.) The network is flax's ImageNet ResNet-50 at 224 x 224 with
1,000 classes, 25.6 M float32 parameters, in evaluation mode on the CPU. Every repeat is a process
of its own, and the two libraries take turns. In each process both tasks are timed at their first
call and, `--calls` times, again: by the clock, and in processor seconds, which say more on a busy
machine. Imports and the making of the network are not counted. Writes
results/benchmarks/analysis.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "benchmarks" / "analysis.json"
TASKS = ("find_groups", "cut")


def timed(task: Callable, calls: int) -> dict[str, list[float]]:
    """Seconds of the first call and of `calls` more, by the clock and of the processor."""
    wall, processor = [], []
    for _ in range(1 + calls):
        start = time.perf_counter(), time.process_time()
        task()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {"wall": wall, "cpu": processor}


def measure(calls: int) -> dict:
    """One process of this library: seconds by task, and what came out."""
    sys.path.insert(0, str(ROOT / "tests"))
    import jax
    import jax.numpy as jnp
    import numpy as np
    from foreign.resnet_linen import ResNet50

    from dynhp_jax.structure.find import find_groups
    from dynhp_jax.surgery.cut import cut

    module = ResNet50(num_classes=1000)

    def apply(variables, x):
        return module.apply(variables, x, train=False)

    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: module.init(key, x, train=False), jax.random.key(0), image
    )
    variables = jax.tree.map(lambda a: jnp.full(a.shape, 0.5, a.dtype), shapes)
    found = timed(lambda: find_groups(apply, variables, image), calls)
    groups = find_groups(apply, variables, image)
    keeps = {n: np.arange(groups[n].size // 2) for n in groups.prunable if n != "input"}
    cuts = timed(lambda: jax.block_until_ready(cut(variables, groups, keeps)), calls)
    small = cut(variables, groups, keeps)
    return {
        "seconds": {"find_groups": found, "cut": cuts},
        "groups": len(keeps),
        "parameters": [
            sum(a.size for a in jax.tree.leaves(t["params"])) for t in (variables, small)
        ],
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
    }


def medians(runs: list[dict]) -> dict:
    """Over processes: of the first call, and of the median of the later ones."""

    def of(task: str, clock: str) -> dict[str, float]:
        seconds = [run["seconds"][task][clock] for run in runs]
        return {
            "first": statistics.median(s[0] for s in seconds),
            "later": statistics.median(statistics.median(s[1:]) for s in seconds),
        }

    return {task: {clock: of(task, clock) for clock in ("wall", "cpu")} for task in TASKS}


def summary(runs: list[dict]) -> dict:
    rest = {key: value for key, value in runs[0].items() if key != "seconds"}
    return {"median_seconds": medians(runs), **rest, "runs": [run["seconds"] for run in runs]}


def child(python: str, module: str, calls: int, environment: dict[str, str]) -> dict:
    done = subprocess.run(
        [python, "-m", module, "--child", "--calls", str(calls)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each library")
    parser.add_argument("--calls", type=int, default=5, help="calls after the first, per process")
    parser.add_argument("--cores", type=int, help="use only so many cores")
    parser.add_argument("--torch-python", help="a Python with requirements-bench.txt installed")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.calls)))
        return
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    from benchmarks import record  # not at the top: PyTorch's side has no jax, and takes `timed`

    command = f"python -m benchmarks.analysis --repeats {options.repeats} --calls {options.calls}"
    command += f" --cores {options.cores}" if options.cores else ""
    command += " --torch-python VENV/bin/python" if options.torch_python else ""
    result = record.head(command)
    ours, theirs = [], []
    for repeat in range(options.repeats):
        ours.append(
            child(sys.executable, "benchmarks.analysis", options.calls, {"JAX_PLATFORMS": "cpu"})
        )
        if options.torch_python:
            theirs.append(
                child(options.torch_python, "benchmarks.analysis_torch", options.calls, {})
            )
        print(f"{repeat + 1} of {options.repeats}", file=sys.stderr)
    result["dynhp_jax"] = summary(ours)
    if theirs:
        result["torch_pruning"] = summary(theirs)
        ours, theirs = (result[n]["median_seconds"] for n in ("dynhp_jax", "torch_pruning"))
        result["ratio_torch_pruning_to_dynhp_jax"] = {
            task: {
                clock: {call: theirs[task][clock][call] / s for call, s in seconds.items()}
                for clock, seconds in ours[task].items()
            }
            for task in TASKS
        }
    record.write(options.out, result)
    for name in ("dynhp_jax", "torch_pruning", "ratio_torch_pruning_to_dynhp_jax"):
        if name in result:
            print(name, json.dumps(result[name].get("median_seconds", result[name])))


if __name__ == "__main__":
    main()
