"""Runs the cells of a comparison: from a dense warm-up to a result file each.

The warm-up of a seed is a run in a workdir of its own, which can be stopped and goes on. Cells
start from its last epoch. Units go by masks on the arrays of the whole network, so that one
compiled program serves all cells; a masked network computes what the cut one does.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynhp_jax import data
from dynhp_jax.common import paths
from dynhp_jax.common.errors import ConfigError, UserError, shown
from dynhp_jax.pruning.criteria import flexrel, parse
from dynhp_jax.pruning.criteria.evidence import Criterion
from dynhp_jax.training import build
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled.budget import Budget
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.compiled.scorer import Scored, Scorer
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.network import Network
from dynhp_jax.training.run import checkpoint, loop, prune_by_criterion, resume
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from experiments import train
from experiments.comparison import results, settings
from experiments.comparison.settings import Comparison
from experiments.values import shortest


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """What all cells of one call share.

    Attributes:
      base, comparison: what is compared; see `settings`.
      workdirs: under which every run has its workdir.
      results: where the result files go.
      now: commit, versions and machine of what is run (`provenance.present`).
    """

    base: Config
    comparison: Comparison
    workdirs: Path
    results: Path
    now: Mapping[str, Any]

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        found, count = build.classes_of(self.base), self.comparison.test or None
        if count and count > len(found.y_test):
            raise ConfigError("compare.test", count, f"0 (all) to {len(found.y_test)}")
        x, y = found.x_test[:count], found.y_test[:count]
        return dataclasses.replace(found, x_test=x, y_test=y)

    @functools.cached_property
    def programs(self) -> Programs:
        warm_ups = (self.warm_up(seed) for seed in self.comparison.seeds)
        known = (Workdir(path).trials for path in warm_ups)
        return Programs(known=collections.ChainMap(*known))

    def warm_up(self, seed: int) -> Path:
        """The workdir of a warm-up."""
        return self.workdirs / f"warm-up-seed{seed}"

    @functools.cached_property
    def whole(self) -> Network:
        """The network before anything is pruned; one object, for which a criterion compiles."""
        return self.budget.whole

    @functools.cached_property
    def budget(self) -> Budget:
        """That criteria score in."""
        config = settings.warm_up(self.base, 0)
        return Trainer(config, self.dataset, self.programs).budget

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a place lives as long as the program
    def start(self, seed: int) -> "Start":
        """Where the cells of a seed start; trains the warm-up if it is not there."""
        return Start.of(self, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The end of a warm-up.

    Attributes:
      place: what all cells share.
      trainer: of the warm-up.
      saved: its last checkpoint, in the memory of the host.
      earlier: variables of the ones before, the latest first; there, too.
      scored: what criteria look at.
      stretches: of what commit and machine its epochs are (`provenance.stretches_of`).
      found: scores by criterion, and the seconds that they took.
    """

    place: Place
    trainer: Trainer
    saved: checkpoint.Checkpoint
    earlier: tuple
    scored: Scored
    stretches: list[dict[str, Any]]
    found: dict[str, tuple[dict[str, np.ndarray], float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, place: Place, seed: int) -> "Start":
        config = settings.warm_up(place.base, seed)
        workdir = Workdir(place.warm_up(seed))
        if not workdir.finished(config.epochs):
            _train(place, config, workdir)
        with workdir.claim(config):  # refuses a run of another config
            trainer = Trainer(config, place.dataset, place.programs)
            first = max(1, config.epochs - settings.KEPT + 1)
            saved = [
                _on_host(_saved(workdir, epoch, trainer))
                for epoch in range(config.epochs, first - 1, -1)
            ]
        earlier = tuple(each.state.evaluated[0] for each in saved[1:])
        run = dataclasses.replace(resume.run_of(trainer, saved[0]), earlier=earlier)
        examples = dataclasses.replace(config, scores=place.base.scores)
        seen = Trainer(examples, place.dataset, place.programs)
        scored = prune_by_criterion.scored(seen, run)
        evidence = dataclasses.replace(
            scored.evidence, apply=place.whole.evaluate, groups=place.whole.groups
        )
        scored = dataclasses.replace(scored, network=place.whole, evidence=evidence)
        stretches = provenance.stretches_of(workdir, workdir.records())
        return cls(place, trainer, saved[0], earlier, scored, stretches)

    def scores(self, criterion: str) -> tuple[dict[str, np.ndarray], float]:
        """Scores and seconds, without compiling: those of the second of two calls."""
        if criterion not in self.found:
            parsed = parse.parse(criterion)
            self.score(parsed, criterion)
            began = time.perf_counter()
            scores = self.score(parsed, criterion)
            self.found[criterion] = scores, time.perf_counter() - began
        return self.found[criterion]

    def score(self, criterion: Criterion, called: str = "") -> dict[str, np.ndarray]:
        """Its scores, inside the budget."""
        scorer = Scorer(criterion, self.place.budget, called)
        chunk = scorer.chunk(self.scored, self.scored.evidence.examples)
        return scorer.scores(self.scored, chunk)[0]

    def begin(self, config: Config) -> tuple[Trainer, Run]:
        """A run of another config that goes on from the warm-up; its arrays are its own."""
        trainer = Trainer(config, self.place.dataset, self.place.programs)
        state = jax.tree.map(jnp.array, self.saved.state)  # a copy: an epoch consumes them
        run = resume.run_of(trainer, dataclasses.replace(self.saved, state=state))
        return trainer, dataclasses.replace(run, earlier=self.earlier)


def _saved(workdir: Workdir, epoch: int, trainer: Trainer) -> checkpoint.Checkpoint:
    """One of the last checkpoints of a warm-up, of which criteria need each.

    Raises:
      UserError: it is damaged, or not there.
    """
    try:
        return resume.read(trainer, workdir.checkpoints, epoch)
    except checkpoint.Corrupted as damage:
        raise UserError(
            f"the checkpoint of epoch {epoch} in {workdir.checkpoints} is damaged ({damage});"
            f" remove {workdir.path}, and the warm-up is trained again"
        ) from None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One result: the dense network, a criterion at a fraction, or a method with gates.

    Attributes:
      row: 'dense', the text of a criterion, or the name of a method.
      seed: of the run.
      fraction: that a criterion takes away; 0 for 'dense', None for a method, which finds its own.
      lam: of a method's penalty.
    """

    row: str
    seed: int
    fraction: float | None = None
    lam: float | None = None

    def config(self, base: Config, comparison: Comparison) -> Config:
        """Of its run."""
        if self.lam is not None:
            return settings.with_gates(base, comparison, self.seed, self.row, self.lam)
        criterion = self.row if self.fraction else ""
        return settings.cell(base, comparison, self.seed, criterion, self.fraction)

    def path(self, directory: Path) -> Path:
        """Where its result lies."""
        what = f"f{shortest(self.fraction)}" if self.fraction else ""
        if self.lam is not None:
            what = f"lam{shortest(self.lam)}"
        return results.path_of(directory, self.row, what, self.seed)


def cells(comparison: Comparison) -> list[Cell]:
    """All of them, seed by seed, so that whole tables come early; methods with gates at last."""
    found = []
    for seed in comparison.seeds:
        found.append(Cell("dense", seed, 0.0))
        for criterion in comparison.criteria:
            found += [Cell(criterion, seed, fraction) for fraction in comparison.fractions]
    for seed in comparison.seeds:
        for method in comparison.methods:
            found += [Cell(method, seed, lam=lam) for lam in comparison.lams]
    return found


def check(place: Place) -> None:
    """Whether the cells can be told apart, and all can be run or are there.

    Raises:
      UserError: two of them have one file, a result there is of another config, or what one of
        them trains does not go with its data, its budget or the memory.
    """
    named: dict[Path, Cell] = {}
    for cell in cells(place.comparison):
        path = cell.path(place.results)
        other = named.setdefault(path, cell)
        if other != cell:
            raise UserError(
                f"{other.row!r} and {cell.row!r} would write the same file, {path.name}; leave out"
                " or spell differently one of them"
            )
        if not paths.is_file_name(path.stem):
            raise UserError(f"{shown(cell.row)} makes no name that a file can have; shorten it")
        there = current(place, cell)
        if there is None and cell.lam is not None and cell.lam == place.comparison.lams[0]:
            config = cell.config(place.base, place.comparison)  # other lams change no size
            Trainer(config, place.dataset, place.programs)


def current(place: Place, cell: Cell) -> dict[str, Any] | None:
    """The result of a cell that is there already.

    Raises:
      UserError: what is there is of another config or cell.
    """
    config, path = cell.config(place.base, place.comparison), cell.path(place.results)
    there = results.current(path, config, place.base.epochs, len(place.dataset.y_test))
    if there is not None:
        _check_cell(path, there, cell, settings.prunes_first(place.base))
    return there


def result(place: Place, cell: Cell, run: bool = True) -> dict[str, Any] | None:
    """The result of a cell; runs it if it is not there yet, or gives None.

    Raises:
      UserError: what is there is of another config.
    """
    config, path = cell.config(place.base, place.comparison), cell.path(place.results)
    there = current(place, cell)
    if there is not None or not run:
        return there
    found = (_by_criterion if cell.lam is None else _with_gates)(place, cell, config)
    results.write(path, found)
    print(
        f"   {path.stem}: {100 * found['removed']:.1f} % of the parameters gone,"
        f" test error {found['test_error']:.2f} %",
        flush=True,
    )
    return found


def _check_cell(path: Path, there: Mapping[str, Any], cell: Cell, pruned_first: bool) -> None:
    for name in ("row", "seed", "fraction"):
        if there[name] != getattr(cell, name):
            raise UserError(
                f"{path}: its {name} is {shown(there[name])}, not {getattr(cell, name)!r}, of which"
                " the name of the file is; move it away"
            )
    if cell.fraction and pruned_first and "pruned_test_error" not in there:
        raise UserError(f"{path}: it has no pruned_test_error; move it away")


def _by_criterion(place: Place, cell: Cell, config: Config) -> dict[str, Any]:
    """Scores, prunes and fine-tunes."""
    start, measured = place.start(cell.seed), {}
    trainer, run = start.begin(config)
    if cell.fraction:
        scores, seconds = start.scores(cell.row)
        measured["score_seconds"] = round(seconds, 4)
        parsed = trainer.criterion
        if isinstance(parsed, flexrel.FlexRel) and "delta" not in cell.row:
            parsed, tuned = _tuned(start, trainer, run)
            measured |= tuned
            print(f"   {cell.row} at {cell.fraction:g}: delta {parsed.delta:g}", flush=True)
            scores = start.score(parsed)
            trainer.criterion = parsed  # also where a schedule has it score again
        if settings.prunes_first(place.base):
            run = _pruned(trainer, run, scores)
            measured["pruned_test_error"] = _error(trainer, run, "test")
    errors, seconds = [], 0.0
    for _ in range(place.comparison.epochs):
        run, record = loop.advance(trainer, run)
        errors.append(record["test_error"])
        seconds += record["seconds"]
    if not errors:
        record = {f"{split}_error": _error(trainer, run, split) for split in ("test", "validation")}
        record |= loop.size_of(trainer, run)
    measured |= {"fine_tuning_test_errors": errors, "seconds": round(seconds, 2)}
    stretches = [*start.stretches, {"from_epoch": place.base.epochs + 1, **place.now}]
    return _summary(place, cell, config, trainer, record, stretches) | measured


def _with_gates(place: Place, cell: Cell, config: Config) -> dict[str, Any]:
    workdir = Workdir(place.workdirs / cell.path(Path()).stem)
    trainer, _, records = _train(place, config, workdir)
    seconds = round(sum(record["seconds"] for record in records), 1)
    stretches = provenance.stretches_of(workdir, records)
    return _summary(place, cell, config, trainer, records[-1], stretches) | {"seconds": seconds}


def _train(place: Place, config: Config, workdir: Workdir):
    return train.one_of_many(config, workdir, place.dataset, now=place.now)


def _pruned(trainer: Trainer, run: Run, scores) -> Run:
    """A run from which the units with the lowest scores were taken, as its config says."""
    asked = trainer.config.scores
    most = asked.most(trainer.whole.groups)
    keeps = prune_by_criterion.chosen(asked, trainer.criterion, scores, trainer.whole, most)
    return prune_by_criterion.without(trainer, run, keeps)


def _tuned(start: Start, trainer: Trainer, run: Run) -> tuple[flexrel.FlexRel, dict]:
    """FlexRel with the delta whose pruned network errs least on the held-out examples."""
    seconds = 0.0

    def error(scores) -> float:
        nonlocal seconds
        began = time.perf_counter()
        found = _error(trainer, _pruned(trainer, run, scores), "validation")
        seconds += time.perf_counter() - began
        return found

    _error(trainer, run, "validation")  # compiles
    tuned, errors = flexrel.tune(trainer.criterion, start.scored.evidence, error, score=start.score)
    return tuned, {
        "delta": tuned.delta,
        "validation_error_by_delta": {f"{delta:g}": each for delta, each in errors.items()},
        "tuning_seconds": round(seconds, 3),
    }


def _error(trainer: Trainer, run: Run, split: str) -> float:
    found = loop.evaluate(trainer, run.network, run.state, run.splits[split], split, run.chunk)
    return found["error"]


def _summary(
    place: Place, cell: Cell, config: Config, trainer, record, stretches
) -> dict[str, Any]:
    whole = {name: group.size for name, group in trainer.whole.groups.items()}
    units = record["units"]
    return {
        "row": cell.row,
        "seed": cell.seed,
        "fraction": cell.fraction,
        "removed": 1 - record["parameters"] / trainer.whole_parameters,
        "units_removed": 1 - sum(units.values()) / sum(whole.values()),
        "parameters": record["parameters"],
        "units": units,
        "whole_units": whole,
        "test_error": record["test_error"],
        "validation_error": record["validation_error"],
        "warm_up": place.base.epochs,
        "test_examples": len(place.dataset.y_test),
        **provenance.entries(stretches),
        "config": configuration.to_dict(config),
    }


def _on_host(saved: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """The same, its arrays in the memory of the host: a run beside it has a budget."""
    return dataclasses.replace(saved, state=jax.device_get(saved.state))
