"""How long one example takes, before and after pruning: jit, onnxruntime, LiteRT and C.

python -m experiments.latency --workdir=runs/digits

Every runtime runs three networks in turn, so that what else the machine does falls on all of them:
the dense one, the pruned one, and one that only reads a number of its input. What the third takes
is the price of a call, below which no network comes. Times are medians over rounds with their
quartiles, in microseconds for each example; the gain is the median of the rounds' own ratios.
A runtime whose package is not installed is left out and named. Writes latency.json.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.notices import warn
from dynhp_jax.export import network, runs
from dynhp_jax.export.formats import registry
from dynhp_jax.export.formats.format import Source, Unrunnable
from dynhp_jax.training.files import origin
from experiments import commandline
from experiments.exporting import examples

RUNTIMES = {"jit": "", "onnxruntime": "onnx", "LiteRT": "tflite", "C": "c", "C, 8 bits": "c-int8"}
NETWORKS = ("dense", "pruned", "call alone")
_OPTIONS = [
    ("out", "", "file of the numbers; latency.json in the workdir if it is not given"),
    ("batch", "256", "examples of the large batch"),
    ("rounds", "30", "of all networks in turn; more make the medians steadier"),
]
_OWN_CODE = (runs.OWN_CODE, "run the code that the config of the run names as module:object")
_AT_LEAST = 2e-3  # seconds of one measurement
_BOUND = 0.5  # of the pruned network's time: so much of it is the call's


def main(argv: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    _, path, out, batch, rounds, own = commandline.parse(
        argv, with_config=False, options=_OPTIONS, switches=[_OWN_CODE]
    )
    if not path:
        raise UserError("--workdir is missing: the directory of a run, such as runs/digits")
    for name, value in (("batch", batch), ("rounds", rounds)):
        if not value.isdecimal() or not int(value):
            raise UserError(f"--{name} is {value!r}; allowed: a whole number from 1")
    trainer, run = runs.reopened(path, own=own, tell=warn)
    splits = examples.first(trainer, int(batch))
    inputs = splits["test"][0]
    networks = {"dense": _whole(trainer), "pruned": runs.finished_of(trainer, run)}
    if (least := _least(networks["pruned"])) is not None:
        networks["call alone"] = least
    with tempfile.TemporaryDirectory() as folder:
        calls = _calls(networks, splits["train"][0], Path(folder))
        sizes = sorted({1, len(jax.tree.leaves(inputs)[0])})
        times = {count: _measured(calls, _part(inputs, count), int(rounds)) for count in sizes}
    rows = [
        _row(runtime, count, found) for count in sizes for runtime, found in times[count].items()
    ]
    _print(rows)
    file = Path(out or Path(path) / "latency.json")
    parameters = {name: each.parameters for name, each in networks.items()}
    write_json(file, {"rows": rows, "parameters": parameters, "rounds": int(rounds),
                      "machine": origin.machine(), "commit": origin.commit(),
                      "versions": origin.versions()})  # fmt: skip


def _whole(trainer: Any) -> network.Finished:
    """The network before it was pruned; its weights are drawn, as times do not depend on them."""
    model, rng = trainer.whole.model, np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.01, 0.1, leaf.shape), leaf.dtype), model.shapes()
    )
    return network.finish(model.evaluate, variables, trainer.whole.groups)


def _least(pruned: network.Finished) -> network.Finished | None:
    """A network that reads one number of its input; None where that is not an array of numbers."""
    leaves = jax.tree.leaves(pruned.example)
    if len(leaves) != 1 or not np.issubdtype(leaves[0].dtype, np.floating):
        return None

    def apply(variables: Any, x: Any) -> Any:
        return x.reshape(len(x), -1)[:, :1] @ variables

    return network.Finished(apply, np.ones((1, 1), np.float32), {}, {}, pruned.example,
                            pruned.groups, pruned.keeps)  # fmt: skip


def _calls(networks: Mapping[str, network.Finished], calibration: Any, folder: Path) -> dict:
    """{runtime: {network: function of inputs}}, of the runtimes that are here."""
    found: dict[str, dict[str, Callable]] = {}
    for runtime, name in RUNTIMES.items():
        try:
            found[runtime] = {
                which: _call(name, Source(each, calibration, f"n{k}"), folder)
                for k, (which, each) in enumerate(networks.items())
            }
        except (UserError, Unrunnable) as reason:
            warn(f"{runtime} is left out: {reason}")
    return found


def _call(name: str, source: Source, folder: Path) -> Callable:
    if not name:
        apply, variables = jax.jit(source.network.apply), jax.device_put(source.network.variables)
        return lambda inputs: jax.block_until_ready(apply(variables, inputs))
    kind = registry.FORMATS[name]
    kind.check(source)
    return kind.open(kind.write(source, folder), source)


def _part(inputs: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:count], inputs)


def _measured(calls: Mapping[str, Mapping[str, Callable]], inputs: Any, rounds: int) -> dict:
    """{runtime: {network: seconds of a call in every round}}."""
    repeats = {}
    for runtime, each in calls.items():
        for which, call in each.items():
            call(inputs)
            start = time.perf_counter()
            call(inputs)
            spent = time.perf_counter() - start
            repeats[runtime, which] = max(1, int(_AT_LEAST / max(spent, 1e-9)))
    times: dict[str, dict[str, list[float]]] = {r: {w: [] for w in c} for r, c in calls.items()}
    for _ in range(rounds):
        for (runtime, which), count in repeats.items():
            call = calls[runtime][which]
            start = time.perf_counter()
            for _ in range(count):
                call(inputs)
            times[runtime][which].append((time.perf_counter() - start) / count)
    return times


def _row(runtime: str, batch: int, times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    each = {name: np.asarray(found) / batch * 1e6 for name, found in times.items()}
    row: dict[str, Any] = {"runtime": runtime, "batch": batch}
    for name, found in each.items():
        row[name] = [float(x) for x in np.percentile(found, [50, 25, 75])]
    row["gain"] = float(np.median(each["dense"] / each["pruned"]))
    if "call alone" in each:
        row["share_of_call"] = float(np.median(each["call alone"] / each["pruned"]))
    return row


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    print("microseconds for each example: median (quartiles)")
    print("| runtime | batch | dense | pruned | gain | call alone |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [_cell(row.get(name)) for name in NETWORKS]
        print(f"| {row['runtime']} | {row['batch']} | {cells[0]} | {cells[1]} |"
              f" {row['gain']:.2f} | {cells[2]} |")  # fmt: skip
    for row in rows:
        if row["batch"] == 1 and row.get("share_of_call", 0) >= _BOUND:
            print(
                f"{row['runtime']}, batch 1: {100 * min(1, row['share_of_call']):.0f} % of the"
                " pruned network's time is that of a call that computes nothing; pruning cannot"
                " take less"
            )


def _cell(found: Sequence[float] | None) -> str:
    return "" if found is None else "{:.3g} ({:.3g}-{:.3g})".format(*found)


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
