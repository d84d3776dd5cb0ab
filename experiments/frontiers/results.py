"""One JSON file for each row and seed, merged by copying them into one directory."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.memory import paper
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from experiments import result_files
from experiments.frontiers.recipes import Row
from experiments.reproduction.published import METER, UNITS
from experiments.result_files import CONFIG, SEED, Result

_KIND = schema.fields(
    {
        "row": schema.TEXT,
        "data": schema.TEXT,
        "seed": SEED,
        "test_error": schema.NOT_NEGATIVE,
        "units": schema.fields(dict.fromkeys(UNITS, schema.POSITIVE)),
        "model_kib": schema.NOT_NEGATIVE,
        "training_memory": schema.NOT_NEGATIVE,
        "examples_seen": schema.POSITIVE,
        "seconds": schema.NOT_NEGATIVE,
        "compilations": schema.NOT_NEGATIVE,
        "config": CONFIG,
    }
)


def path_of(directory: Path, row: Row, seed: int, tried: str = "") -> Path:
    """Where a result lies; `tried` tells those of other settings than the recipe's apart."""
    return directory / row.data / "-".join(filter(None, (row.name, tried, f"seed{seed}.json")))


def of_records(
    row: Row,
    config: Config,
    records: Sequence[Mapping[str, Any]],
    units: Mapping[str, int],
    kept_inputs: Sequence[int],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """The result of a finished run.

    Args:
      row, config: what was run.
      records: the lines of metrics.jsonl.
      units, kept_inputs: of the final network.
      origin: commit, versions and machine (`provenance.entries`).
    """
    held = [METER.memory_kib(each["parameters"], each["batch_size"]) for each in records]
    allocated = [each["allocated_kib"] for each in records if each.get("allocated_kib")]
    last = records[-1]
    return {
        "row": row.name,
        "data": row.data,
        "seed": config.seed,
        "test_error": last["test_error"],
        "validation_error": last.get("validation_error"),
        "units": dict(units),
        "model_kib": METER.model_kib(last["parameters"]),
        "training_memory": paper.training_memory(held),
        "mean_memory_kib": statistics.fmean(held),
        "allocated_kib": max(allocated, default=None),
        "batch_size": last["batch_size"],
        "examples_seen": sum(each["steps"] * each["batch_size"] for each in records),
        "steps": sum(each["steps"] for each in records),
        "seconds": round(math.fsum(each["seconds"] for each in records), 1),
        "compile_seconds": round(math.fsum(each["compile_seconds"] for each in records), 1),
        "compilations": last["compilations"],  # so far
        **origin,
        "config": configuration.to_dict(config),
        "kept_inputs": [int(each) for each in kept_inputs],
        "curves": {
            name: [each[name] for each in records]
            for name in ("batch_size", "parameters", "test_error", "validation_error")
            if name in last
        },
    }


def current(path: Path, config: Config | None) -> dict[str, Any] | None:
    """The result that is there already; None if there is none.

    Raises:
      UserError: it is no result, or (where a config is given) of another one.
    """
    found = result_files.read(path, _KIND)
    if found is not None and config is not None:
        result_files.check_same(path, result_files.differences(found, config))
    return found


def read_all(directory: Path, data: str, tried: str = "") -> list[Result]:
    """Those of a data set that are there, of the recipes themselves or of what was tried."""
    paths = sorted((directory / data).glob("*.json"))
    own = [path for path in paths if _tried(path) == tried]
    return [each for path in own if (each := current(path, None)) is not None]


def _tried(path: Path) -> str:
    """The part of a file's name between the row and the seed."""
    return "-".join(part for part in path.stem.split("-")[:-1] if "=" in part)
