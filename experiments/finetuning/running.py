"""Runs the cells of the comparison: rates on held-out images first, then the seeds."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.pairs import Pairs
from dynhp_jax.training import config as configuration
from dynhp_jax.training import fit
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import examples
from dynhp_jax.training.run.trainer import Trainer
from experiments import result_files, train
from experiments.finetuning import results, step
from experiments.finetuning.rows import Row
from experiments.finetuning.tracks import Place, Size

AT_ONCE = 500  # test images


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row in a budget; None for a row that takes the bytes that it takes."""

    row: Row
    budget: float | None

    def path(self, place: Place, rate: float, seed: int) -> Path:
        """Where the result of a run lies."""
        name = results.name_of(self.row.name, self.budget, rate, seed)
        return place.results / f"{name}.json"


def cells(rows: Sequence[Row], budgets: Sequence[float]) -> list[Cell]:
    """All of them, budget by budget, the rows without one first."""
    fixed = [Cell(row, None) for row in rows if not row.fitted]
    return fixed + [Cell(row, each) for each in budgets for row in rows if row.fitted]


def run(place: Place, cell: Cell, seeds: Sequence[int], rates: Sequence[float]) -> None:
    """Every run of a cell that is missing: all rates with the first seed, the best with the others.

    The best rate is that with the highest accuracy on held-out images; no test image has a say.
    """
    size = place.size(cell.row, cell.budget)
    if not size.fits:
        print(f"   {cell.row.name} does not fit {cell.budget:g}; its least is {_mib(size)} MiB")
        return
    for rate in rates:
        one(place, cell, size, rate, seeds[0])
    rate = chosen_rate([one(place, cell, size, rate, seeds[0]) for rate in rates])
    for seed in seeds[1:]:
        one(place, cell, size, rate, seed)


def chosen_rate(found: Sequence[result_files.Result]) -> float:
    """The rate of the run that is best on held-out images; of equal ones the smallest."""
    best = max(each["validation_accuracy"] for each in found)
    return min(each["rate"] for each in found if each["validation_accuracy"] == best)


def one(place: Place, cell: Cell, size: Size, rate: float, seed: int) -> result_files.Result:
    """The result of a run; trains if it is not there yet.

    Raises:
      UserError: what is there is of another config.
    """
    path = cell.path(place, rate, seed)
    config = place.config(place.text(cell.row, size.knob), seed, rate, cell.row.changes)
    there = results.read(path, config)
    if there is not None:
        return there
    workdir = Workdir(place.workdirs / path.stem)
    try:
        trainer, done, records = train.one_of_many(config, workdir, place.dataset, now=place.now)
    except UserError as error:
        if "Diverged" not in type(error.__context__).__name__:
            raise
        found = _diverged(place, cell, size, rate, seed, config, str(error))
    else:
        result = fit.result_of(trainer, done, records)
        test, held_out = (
            accuracy(result, trainer, place.whole_data.splits[name])
            for name in ("test", "validation")
        )
        taken = step.bytes_of(trainer, done.network)  # some methods decide sizes in the run
        limit = None if cell.budget is None else place.limit(cell.budget)
        found = {
            "track": place.track,
            "row": cell.row.name,
            "budget": cell.budget,
            "fits": limit is None or taken["temporaries"] <= limit,
            "knob": size.knob,
            "rate": rate,
            "seed": seed,
            "test_accuracy": round(test, 3),
            "validation_accuracy": round(held_out, 3),
            "bytes": taken,
            "floor": place.floor,
            "papers_numbers": step.papers_count(trainer, done.network),
            "seconds_per_epoch": round(statistics.median(r["seconds"] for r in records), 3),
            "compilations": records[-1]["compilations"],  # so far
            "compile_seconds": round(sum(r["compile_seconds"] for r in records), 2),
            **provenance.entries(provenance.stretches_of(workdir, records)),
            "config": _named(config),
        }
    result_files.write_lines(path, found)
    print(
        f"   {path.stem}: test {found['test_accuracy']:.2f} %, held out"
        f" {found['validation_accuracy']:.2f} %, {_mib(size)} MiB",
        flush=True,
    )
    return found


def _diverged(place, cell, size, rate, seed, config, why: str) -> dict[str, Any]:
    """The result of a rate that is too large: as good as nothing."""
    return {
        "track": place.track,
        "row": cell.row.name,
        "budget": cell.budget,
        "fits": True,
        "knob": size.knob,
        "rate": rate,
        "seed": seed,
        "test_accuracy": 0.0,
        "validation_accuracy": 0.0,
        "diverged": why,
        "bytes": dict(size.bytes),
        "floor": place.floor,
        "papers_numbers": None,
        "seconds_per_epoch": 0.0,
        "compilations": 0,
        "compile_seconds": 0.0,
        **place.now,
        "config": _named(config),
    }


def _named(config: Config) -> dict[str, Any]:
    """The config as files have it: of the weights the name alone, which lie elsewhere elsewhere."""
    start = dataclasses.replace(config.start, weights=Path(config.start.weights).name)
    return configuration.to_dict(dataclasses.replace(config, start=start))


def accuracy(result: fit.Result, trainer: Trainer, pairs: Pairs) -> float:
    """Percent of examples that the network of a run classifies rightly."""
    apply, right = jax.jit(result.apply), 0
    for part in pairs.chunks(None, AT_ONCE):
        part = examples.fitted(part, trainer.whole)
        found = np.asarray(apply(result.variables, part.inputs)).argmax(-1)
        right += int((found == part.targets).sum())
    return 100 * right / len(pairs)


def _mib(size: Size) -> str:
    return f"{size.bytes['temporaries'] / 2**20:.2f}"
