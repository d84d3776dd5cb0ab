"""Runs a row: from its name to a result file, through resumable runs in workdirs of their own.

A method's workdir does not name the number of epochs: with more of them the run goes on, and with
fewer its first epochs are the result. What depends on the number of epochs (a baseline is cut at
half of them, to sizes of their end) has it in the workdir's name.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynhp_jax.common.errors import UserError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from experiments import result_files, train
from experiments.reproduction import baselines, results
from experiments.reproduction.published import UNITS, Table
from experiments.reproduction.rows import Row, config_of, expected, sizes
from experiments.reproduction.settings import Settings

Part = tuple[Workdir, list[dict[str, Any]]]  # of a run: where it lies, and its records


@dataclasses.dataclass(frozen=True)
class Place:
    """What all runs of one call share.

    Attributes:
      table, settings: what is reproduced.
      workdirs: under which every run has its workdir.
      results: where the result files go.
      now: commit, versions and machine of what is run (`provenance.present`).
    """

    table: Table
    settings: Settings
    workdirs: Path
    results: Path
    now: Mapping[str, Any]

    def result(self, row: Row, seed: int, epochs: int) -> dict[str, Any] | None:
        """The result that is there already.

        Raises:
          UserError: it is of another config than the row now means.
        """
        path = results.path_of(self.results, self.table.number, row.name, seed, epochs)
        found = results.read_own(path, self.results)
        if found is None:
            return None
        wanted = expected(row, self.table, self.settings, found)
        result_files.check_same(path, result_files.differences(found, wanted))
        return found

    @functools.cached_property
    def _datasets(self) -> dict[configuration.Data, Dataset]:
        return {}

    def dataset(self, config: Config) -> Dataset:
        """The data of a run; rows of the same data share them."""
        if config.data not in self._datasets:
            self._datasets[config.data] = build.classes_of(config)
        return self._datasets[config.data]

    def workdir(self, name: str, seed: int) -> Workdir:
        return Workdir(self.workdirs / f"table{self.table.number}" / f"{name}-seed{seed}")


def check(place: Place, row: Row, seeds: Sequence[int], epochs: int, with_reference: bool) -> None:
    """Whether all runs of a row can be trained, or are done; before the first of any row is.

    Args:
      place, row, seeds, epochs: what is to be run.
      with_reference: whether the row whose sizes it takes is to be run, too.

    Raises:
      UserError: a result there is of another config, a baseline has no reference or too few
        epochs, or the data, the budget or the memory do not allow a run.
    """
    missing = [seed for seed in seeds if place.result(row, seed, epochs) is None]
    if not missing:
        return
    if row.base and not with_reference:
        for seed in missing:
            reference(place, row, seed, epochs)
    if row.cut_half_way:
        _half(row, epochs)
    config = config_of(row, place.table, place.settings, missing[0], epochs)
    Trainer(config, place.dataset(config), programs.Programs())


def run(place: Place, row: Row, seed: int, epochs: int) -> dict[str, Any]:
    """The result of a row; trains if it is not there yet.

    Raises:
      UserError: a baseline's reference row has no result of this seed and number of epochs.
    """
    found = place.result(row, seed, epochs)
    if found is None:
        found = (_baseline if row.base else _method)(place, row, seed, epochs)
        results.write(found, place.results)
    return found


def reference(place: Place, row: Row, seed: int, epochs: int) -> dict[str, Any]:
    """The result of the row whose sizes a baseline takes.

    Raises:
      UserError: it has none of this seed and number of epochs.
    """
    found = place.result(row.reference, seed, epochs)
    if found is None:
        raise UserError(
            f"row {row.name} takes the sizes of {row.reference.name}, which has no result of seed"
            f" {seed} and {epochs} epochs in {place.results}; run that row first"
        )
    return found


def _method(place: Place, row: Row, seed: int, epochs: int) -> dict[str, Any]:
    config = config_of(row, place.table, place.settings, seed, epochs)
    workdir = place.workdir(row.name, seed)
    records, kept = first_epochs(config, workdir), None
    if records is None:
        _, done, records = _train(place, config, workdir, place.dataset(config))
        kept = surviving_inputs(done.keeps, done.state.masks)
    return result_of(place, row, config, workdir, records, kept)


def result_of(
    place: Place,
    row: Row,
    config: Config,
    workdir: Workdir,
    records: list[dict[str, Any]],
    kept: np.ndarray | None,
) -> dict[str, Any]:
    """The result of a method's finished run.

    Args:
      place, row, config: what was run.
      workdir, records: where it lies, and the lines of its epochs.
      kept: the pixels that it reads at its end; None if not known.
    """
    units = {**sizes(config), **records[-1]["units"]}
    return _result(place, row, config, [(workdir, records)], units, kept)


def first_epochs(config: Config, workdir: Workdir) -> list[dict[str, Any]] | None:
    """The records of these epochs, if a longer run of the same config has them already.

    Which pixels it had by then is not known. None where there is none, or where something is
    scheduled over all epochs.
    """
    if config.optimizer.schedule != "constant":
        return None
    records = workdir.records()
    if len(records) < config.epochs or not workdir.config_file.exists():
        return None
    there = workdir.config()
    if there.epochs <= config.epochs:
        return None
    if configuration.differences(there, dataclasses.replace(config, epochs=there.epochs)):
        return None  # `Workdir.claim` says what differs
    return records[: config.epochs]


def _baseline(place: Place, row: Row, seed: int, epochs: int) -> dict[str, Any]:
    sizes_of = reference(place, row, seed, epochs)
    units = sizes_of["units"]
    config = config_of(row, place.table, place.settings, seed, epochs, units)
    dataset = place.dataset(config)
    workdir = place.workdir(f"{row.name}-epochs{epochs}", seed)
    if row.kind == "dense-final":
        kept = sizes_of["kept_inputs"]
        if kept is None:
            raise UserError(
                f"the pixels of {row.reference.name} after {epochs} epochs are not in its result,"
                " as its run had gone further; move the result away and run the row with"
                f" --epochs={epochs} in another --workdir"
            )
        _, _, records = _train(place, config, workdir, baselines.of_pixels(dataset, kept))
        return _result(place, row, config, [(workdir, records)], units, kept)

    dense, first = _first_half(place, row, seed, epochs)
    if row.kind == "magnitude":
        keeps = baselines.largest(dense, units)
    else:
        keeps = baselines.random(dense, units, seed)
    _, _, records = _train(
        place,
        config,
        workdir,
        baselines.of_pixels(dataset, keeps["input"]),
        lambda trainer: baselines.cut_run(trainer, dense, keeps),
    )
    return _result(place, row, config, [first, (workdir, records)], units, keeps["input"])


def _first_half(place: Place, row: Row, seed: int, epochs: int) -> tuple[Run, Part]:
    """The whole network after half of the epochs, which magnitude and random pruning share."""
    half = _half(row, epochs)
    whole = Row("dense", variants=row.variants)
    config = config_of(whole, place.table, place.settings, seed, half)
    workdir = place.workdir(f"{whole.name}-half-epochs{half}", seed)
    _, done, records = _train(place, config, workdir)
    return done, (workdir, records)


def _half(row: Row, epochs: int) -> int:
    if epochs < 2:
        raise UserError(f"row {row.name} is cut after half of the epochs; it needs 2 at least")
    return epochs // 2


def _train(
    place: Place, config: Config, workdir: Workdir, dataset=None, begin=Trainer.start
) -> tuple[Trainer, Run, list[dict[str, Any]]]:
    return train.one_of_many(config, workdir, dataset, begin, place.now)


def surviving_inputs(keeps: Mapping[str, np.ndarray], masks: Mapping[str, Any]) -> np.ndarray:
    """The pixels that a network reads, from its units of the whole network and their masks."""
    if "input" not in keeps:
        return np.arange(UNITS["input"])
    return keeps["input"][np.asarray(masks["input"]) > 0]


def _result(
    place: Place, row: Row, config: Config, parts: Sequence[Part], units, kept
) -> dict[str, Any]:
    stretches = [each for part in parts for each in provenance.stretches_of(*part)]
    return results.of_records(
        [record for _, records in parts for record in records],
        row=row.name,
        table=place.table.number,
        config=config,
        units=units,
        kept_inputs=kept,
        side_by_side=len(parts[-1][0].members),
        **provenance.entries(stretches),
    )
