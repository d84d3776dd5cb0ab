"""One JSON file per row, seed and number of epochs: writing, reading, merging.

The files of several machines are merged by copying them into one directory: their names say what
they are, and each holds its config, commit, versions, machine and seconds.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.batch_size.size_grid import on_grid
from dynhp_jax.common.errors import UserError
from dynhp_jax.memory import paper
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments.reproduction import rows
from experiments.reproduction.entries import OF_A_RUN
from experiments.reproduction.published import METER, WHOLE
from experiments.result_files import Result, read, write_lines, writing

_FILE = re.compile(r"[^.].*-seed\d+-epochs\d+\.json")  # what begins with a dot is half-written
_FULLY = 100  # epochs of which every one is kept; of the later ones every tenth
_CURVES = {
    "test_error": 2,
    "validation_error": 2,
    "cross_entropy": 5,
    "batch_size": 0,
    "parameters": 0,
    "memory_kib": 1,
    "variance_ratio": 2,
}  # decimals


def path_of(directory: Path, table: int, row: str, seed: int, epochs: int) -> Path:
    """Where the result lies."""
    return directory / f"table{table}" / f"{row}-seed{seed}-epochs{epochs}.json"


def of_records(
    records: Sequence[Mapping[str, Any]],
    *,
    row: str,
    table: int,
    config: Config,
    units: Mapping[str, int],
    kept_inputs: Sequence[int] | None,
    commit: str | None,
    versions: Mapping[str, str],
    machine: str | None,
    segments: Sequence[Mapping[str, Any]] = (),
    side_by_side: int = 0,
) -> dict[str, Any]:
    """The result of a finished run.

    Memory is computed anew by the paper's arithmetic, with whole examples: some rows train on
    examples without the pixels that they do not use, and the paper's mini-batch is not made
    smaller by pruned pixels.

    Args:
      records: the lines of metrics.jsonl, one for every epoch.
      row, table: what was run.
      config: of the run; its epochs are those of the result.
      units: of the final network.
      kept_inputs: the pixels that the final network reads; None if not known.
      commit, versions, machine: of the run, or of the last of its stretches.
      segments: all of its stretches, where there are several (`provenance.entries`).
      side_by_side: how many runs the program trained of which this is one; 0: it alone.
    """
    records = [
        {**each, "memory_kib": METER.memory_kib(each["parameters"], each["batch_size"])}
        for each in records
    ]
    last = records[-1]
    best = min(records, key=lambda record: record["test_error"])
    return {
        "row": row,
        "table": table,
        "seed": config.seed,
        "epochs": len(records),
        "test_error": last["test_error"],
        "best_test_error": best["test_error"],
        "best_epoch": best["epoch"],
        "validation_error": last.get("validation_error"),
        "units": dict(units),
        "parameters": last["parameters"],
        "model_kib": METER.model_kib(last["parameters"]),
        "training_memory": paper.training_memory(each["memory_kib"] for each in records),
        "peak_memory_kib": max(each["memory_kib"] for each in records),
        "batch_size": last["batch_size"],
        "seconds": round(math.fsum(each["seconds"] for each in records), 1),
        "compile_seconds": round(math.fsum(each["compile_seconds"] for each in records), 1),
        "commit": commit,
        "versions": dict(versions),
        "machine": machine,
        **({"segments": list(segments)} if segments else {}),
        **({"side_by_side": side_by_side} if side_by_side else {}),
        "config": configuration.to_dict(config),
        "kept_inputs": None if kept_inputs is None else [int(each) for each in kept_inputs],
        "curves": curves(records),
    }


def memory_over(result: Result, epochs: int) -> float:
    """The training memory of a run of so many epochs, judging by one of fewer.

    The run goes on as in its last epoch: a network that shrinks and a mini-batch that grows are no
    more what they were in the first epochs. Rows that are cut half-way have that later in a longer
    run, so that all their epochs count equally.
    """
    if rows.parse(result["row"]).cut_half_way:
        return result["training_memory"] * epochs / result["epochs"]
    last = METER.memory_kib(result["parameters"], result["batch_size"])
    more = epochs - result["epochs"]
    return result["training_memory"] + more * paper.training_memory([last])


def grows_on(result: Result, epochs: int) -> bool:
    """Whether the mini-batch would go on growing in a run of so many epochs.

    `memory_over` is then a lower bound. It would where what the rule added in the last quarter of
    the epochs is enough, in those that are missing, for the grid's next size, and the budget has
    room for it.
    """
    config, last = result["config"], result["batch_size"]
    if config["method"] != "dynhp":
        return False
    columns = result["curves"]
    ratios = [
        ratio
        for epoch, ratio in zip(columns["epoch"], columns["variance_ratio"], strict=True)
        if epoch > 0.75 * result["epochs"]
    ]
    alpha, grid = config["batch"]["alpha"], config["batch"]["grid"]
    added = statistics.fmean(math.floor((1 - alpha) * ratio) for ratio in ratios)
    budget = METER.memory_kib(WHOLE, config["memory"]["sp_batch"])
    room = int((budget - result["model_kib"]) / METER.memory_kib(0, 1))
    further = last + added * (epochs - result["epochs"])
    return on_grid(min(room, int(further)), grid) > last


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Columns instead of records, rounded; every epoch up to 100, then every tenth and the last."""
    shown = [r for r in records if r["epoch"] <= _FULLY or r["epoch"] % 10 == 0 or r is records[-1]]
    columns: dict[str, list] = {"epoch": [record["epoch"] for record in shown]}
    for name, decimals in _CURVES.items():
        if name in shown[-1]:
            columns[name] = [_rounded(record[name], decimals) for record in shown]
    for name, decimals in (("units", 0), ("active", 1)):
        for group in shown[-1][name]:
            columns[f"{name}/{group}"] = [_rounded(r[name][group], decimals) for r in shown]
    return columns


def _rounded(value: float, decimals: int) -> float | int:
    return round(value, decimals) if decimals else round(value)


def write(result: Result, directory: Path) -> Path:
    """Writes all of the file or nothing; returns where."""
    path = path_of(directory, result["table"], result["row"], result["seed"], result["epochs"])
    with writing(directory):
        write_lines(path, result)
    return path


def read_own(path: Path, directory: Path) -> dict[str, Any] | None:
    """The result that lies there under its own name; None if there is none.

    A copy under another name would count as one more seed.

    Args:
      path: of the file.
      directory: of the results, in which the tables have their folders.

    Raises:
      UserError: the file cannot be read, is no result, or is that of another run.
    """
    found = read(path, OF_A_RUN)
    if found is None:
        return None
    own = path_of(directory, found["table"], found["row"], found["seed"], found["epochs"])
    if path != own:
        raise UserError(
            f"{path} holds the result whose file is {own}; rename it to that, or remove it"
        )
    return found


def read_all(directory: Path, table: int) -> list[dict[str, Any]]:
    """Every result of a table, by row, epochs and seed.

    Raises:
      UserError: a file cannot be read, is no result, or is that of another run.
    """
    paths = sorted((directory / f"table{table}").glob("*.json"))
    found = [read_own(path, directory) for path in paths if _FILE.fullmatch(path.name)]
    found = [each for each in found if each is not None]  # removed meanwhile
    return sorted(found, key=lambda each: (each["row"], each["epochs"], each["seed"]))


def mean_curve(results: Sequence[Result], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs [n], the mean over seeds [n], and each seed's own values [seeds, n]."""
    epochs = sorted(set.intersection(*(set(each["curves"]["epoch"]) for each in results)))
    values = []
    for each in results:
        at = dict(zip(each["curves"]["epoch"], each["curves"][name], strict=True))
        values.append([at[epoch] for epoch in epochs])
    found = np.array(values, float)
    return np.array(epochs), found.mean(0), found
