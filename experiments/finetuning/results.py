"""One JSON file per run of the comparison: of a row, a budget, a rate and a seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.training.config import Config
from experiments import result_files
from experiments.finetuning.step import PARTS
from experiments.result_files import CONFIG, SEED, Result
from experiments.values import shortest

_OF_A_RUN = schema.fields(
    {
        "track": schema.TEXT,
        "row": schema.TEXT,
        "budget": schema.optional(schema.NUMBER),
        "fits": schema.BOOLEAN,
        "rate": schema.NUMBER,
        "seed": SEED,
        "test_accuracy": schema.NOT_NEGATIVE,
        "validation_accuracy": schema.NOT_NEGATIVE,
        "bytes": schema.fields(dict.fromkeys((*PARTS, "temporaries"), schema.WHOLE)),
        "papers_numbers": schema.optional(schema.WHOLE),
        "seconds_per_epoch": schema.NOT_NEGATIVE,
        "compilations": schema.WHOLE,
        "compile_seconds": schema.NOT_NEGATIVE,
        "config": CONFIG,
    }
)


def name_of(row: str, budget: float | None, rate: float, seed: int) -> str:
    """Of a run and of its file.

    >>> name_of("trady", 0.25, 0.05, 1), name_of("full", None, 0.125, 0)
    ('trady-b0.25-rate0.05-seed1', 'full-rate0.125-seed0')
    """
    within = "" if budget is None else f"-b{shortest(budget)}"
    return f"{row}{within}-rate{shortest(rate)}-seed{seed}"


def read(path: Path, config: Config | None = None) -> Mapping[str, Any] | None:
    """The result that lies there, None if there is none.

    Raises:
      UserError: it is no result, or of another config.
    """
    found = result_files.read(path, _OF_A_RUN)
    if found is not None and config is not None:
        result_files.check_same(path, result_files.differences(found, config))
    return found


def read_all(directory: Path, track: str) -> list[Result]:
    """Every result of a track."""
    found = [read(path) for path in sorted(directory.glob("*-seed*.json"))]
    return [each for each in found if each is not None and each["track"] == track]
