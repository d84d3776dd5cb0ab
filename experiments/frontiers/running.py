"""Runs a row: from its recipe to a result file, through a resumable run in its own workdir."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training import build
from dynhp_jax.training.config import Config, Data
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run.trainer import Trainer
from experiments import result_files, train
from experiments.frontiers import recipes, results
from experiments.frontiers.recipes import Row
from experiments.reproduction import baselines
from experiments.reproduction.published import UNITS
from experiments.reproduction.running import surviving_inputs


@dataclasses.dataclass(frozen=True)
class Place:
    """What all runs of one call share.

    Attributes:
      workdirs: under which every run has its own.
      results: where the result files go.
      now: commit, versions and machine (`provenance.present`).
      epochs, lam, validation: instead of the recipes' own; see `recipes.config_of`.
    """

    workdirs: Path
    results: Path
    now: Mapping[str, Any]
    epochs: int = 0
    lam: float | None = None
    validation: float = 0.0

    @property
    def tried(self) -> str:
        """What is other than in the recipes, for names of files; '' for nothing."""
        said = {"epochs": self.epochs, "lam": self.lam, "validation": self.validation}
        return "-".join(f"{name}={value:g}" for name, value in said.items() if value)

    def config(self, row: Row, seed: int, units: Mapping[str, int] = UNITS) -> Config:
        return recipes.config_of(
            row, seed, epochs=self.epochs, lam=self.lam, validation=self.validation, units=units
        )

    @functools.cached_property
    def _datasets(self) -> dict[Data, Dataset]:
        return {}

    def dataset(self, config: Config) -> Dataset:
        """The data of a run; rows of the same data share them."""
        if config.data not in self._datasets:
            self._datasets[config.data] = build.classes_of(config)
        return self._datasets[config.data]


def run(place: Place, row: Row, seed: int) -> dict[str, Any]:
    """The result of a row; trains if it is not there yet.

    Raises:
      UserError: there is one of another config, or none of the row whose sizes this one takes.
    """
    path = results.path_of(place.results, row, seed, place.tried)
    final = reference(place, row, seed) if row.method == recipes.DENSE_FINAL else None
    config = place.config(row, seed, final["units"] if final else UNITS)
    found = results.current(path, config)
    if found is not None:
        return found
    dataset, kept = place.dataset(config), None
    if final:
        kept = final["kept_inputs"]
        dataset = baselines.of_pixels(dataset, kept)
    workdir = Workdir(place.workdirs / row.data / path.stem)
    _, done, records = train.one_of_many(config, workdir, dataset, Trainer.start, place.now)
    kept = surviving_inputs(done.keeps, done.state.masks) if kept is None else kept
    units = {**(final["units"] if final else UNITS), **records[-1]["units"]}
    origin = provenance.entries(provenance.stretches_of(workdir, records))
    found = results.of_records(row, config, records, units, kept, origin)
    result_files.write_lines(path, found)
    return found


def reference(place: Place, row: Row, seed: int) -> dict[str, Any]:
    """The result of the row whose sizes 'dense-final' takes.

    Raises:
      UserError: there is none of this seed.
    """
    other = dataclasses.replace(row, method=recipes.OF_FINAL)
    found = results.current(results.path_of(place.results, other, seed, place.tried), None)
    if found is None:
        raise UserError(
            f"{row.name} takes the sizes of {other.name}, which has no result of seed {seed} in"
            f" {place.results}; run that row first"
        )
    return found
