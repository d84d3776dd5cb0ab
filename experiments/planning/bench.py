"""A training that changes model and nodes, on the engine: an epoch, a cut, a switch of the data."""

import dataclasses
import functools

import jax
import numpy as np

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.data.loading import Dataset
from dynhp_jax.planner import Pair
from dynhp_jax.training import build
from dynhp_jax.training.compiled import step_bytes
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.run import loop, prune_by_criterion, shape_plans
from dynhp_jax.training.run.run import Run
from dynhp_jax.training.run.trainer import Trainer
from experiments.planning.settings import MODELS, NODES, Planning

_OF_A_STEP = 3  # forward passes that a step's operations are: its backward pass has two


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A training under way; `Bench.train` and `Bench.change` consume its arrays.

    Attributes:
      pair: the present one.
      run: of the engine.
      loss: the present one.
    """

    pair: Pair
    run: Run
    loss: float


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What an epoch came to."""

    loss: float
    accuracy: float
    seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Change:
    """What a change came to: the loss on the old data after the cut, and that on the new data."""

    cut: float
    loss: float


class Bench:
    """Trainings of one seed.

    Args:
      config: of the training; its seed is the trainings'.
      planning: the scenario.
      programs: where compiled programs are kept; benches may share them.

    Raises:
      UserError: the data has fewer examples or classes than the scenario asks for.
    """

    def __init__(self, config: Config, planning: Planning, programs: Programs):
        self.planning = planning
        dataset = build.classes_of(config)
        self._trainers = {
            nodes: Trainer(config, _part(dataset, planning, place), programs)
            for place, nodes in enumerate(NODES)
        }

    def begin(self) -> Line:
        """The whole network on gold nodes, before its first epoch."""
        pair = Pair(MODELS[0], NODES[0])
        run = self._trainers[pair.nodes].start()
        return Line(pair, run, self._loss(self._trainers[pair.nodes], run))

    def train(self, line: Line) -> tuple[Line, Epoch]:
        """The line an epoch later, and what it came to."""
        trainer = self._trainers[line.pair.nodes]
        run, record = loop.advance(trainer, line.run)
        loss = record[f"{self._split}_{trainer.whole.task.called}"]
        epoch = Epoch(
            loss, 100 - record["test_error"], record["seconds"], record["compile_seconds"]
        )
        return Line(line.pair, run, loss), epoch

    def change(self, line: Line, pair: Pair) -> tuple[Line, Change]:
        """The line after a cut to the share of a model, on other nodes and their data.

        Raises:
          ConfigError: the model is larger than the present one.
        """
        old, new = self._trainers[line.pair.nodes], self._trainers[pair.nodes]
        run = self._cut(old, line.run, pair.model) if pair.model != line.pair.model else line.run
        cut = self._loss(old, run)
        state = new.place(run.state)
        given, splits = new.given(run.network, run.keeps, state), new.splits(run.keeps)
        batch, in_use = new.meter.fit(run.network, min(run.batch, new.examples))
        run = dataclasses.replace(
            run, state=state, given=given, splits=splits, batch=batch, batch_in_use=in_use,
            chunk=new.budget.chunk(run.network), plan=None,
        )  # fmt: skip
        loss = self._loss(new, run)
        return Line(pair, run, loss), Change(cut, loss)

    def copy(self, line: Line) -> Line:
        """A line that may be consumed while this one stays."""
        trainer = self._trainers[line.pair.nodes]
        state = trainer.place(jax.tree.map(np.array, line.run.state))
        return dataclasses.replace(line, run=dataclasses.replace(line.run, state=state))

    def costs(self, line: Line) -> dict[str, float]:
        """What an epoch of a line takes beside time: operations, bytes, steps, and its size."""
        trainer, run = self._trainers[line.pair.nodes], line.run
        parts = trainer.steps.training_bytes(run.network, run.batch_in_use)
        parameters = loop.size_of(trainer, run)["parameters"]
        return {
            "steps": trainer.examples // run.batch_in_use,
            "flops": _OF_A_STEP * run.network.flops * run.batch_in_use,
            "step_bytes": step_bytes.total(parts),
            "model_bytes": 4 * parameters,
            "pruned": 1 - parameters / trainer.whole_parameters,
        }

    @functools.cached_property
    def _split(self) -> str:
        return "validation" if self.planning.judged == "own" else "test"

    def _loss(self, trainer: Trainer, run: Run) -> float:
        split, name = run.splits[self._split], self._split
        found = loop.evaluate(trainer, run.network, run.state, split, name, run.chunk)
        return float(found[trainer.whole.task.called])

    def _cut(self, trainer: Trainer, run: Run, model: str) -> Run:
        share = self.planning.pruned[MODELS.index(model)]
        asked = dataclasses.replace(trainer.config.scores, fraction=share)
        found = prune_by_criterion.scored(trainer, run)
        chunk = trainer.scorer.chunk(found, run.score_chunk)
        scores, _ = trainer.scorer.scores(found, chunk)
        most = asked.most(trainer.whole.groups)
        keeps = prune_by_criterion.chosen(asked, trainer.criterion, scores, found.network, most)
        network, state = shape_plans.resize(run.network, run.state, trainer.tx, keeps)
        return dataclasses.replace(
            run, network=network, state=state, keeps=run.keeps.then(keeps), score_chunk=chunk,
            splits=trainer.splits(run.keeps.then(keeps)),
        )  # fmt: skip


def _part(dataset: Dataset, planning: Planning, place: int) -> Dataset:
    """The data of a node set: the first examples of its classes, behind those of earlier sets.

    Its own examples are those that the loss is measured on, too, as far as `looked_at` goes.
    """
    classes, count = planning.classes[place], planning.examples[place]
    if classes > dataset.num_classes:
        allowed = f"at most {dataset.num_classes}"
        raise ConfigError("plan.classes", planning.classes, allowed)
    taken = sum(planning.examples[:place])
    free = np.arange(len(dataset.y_train)) >= taken
    rows = np.flatnonzero(free & (dataset.y_train < classes))[:count]
    if len(rows) < count:
        allowed = f"{len(rows)} at most for {NODES[place]} nodes, behind {taken} of the others"
        raise ConfigError("plan.examples", planning.examples, allowed)
    own, tested = rows[: planning.looked_at], slice(planning.looked_at)
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[rows], y_train=dataset.y_train[rows],
        x_validation=dataset.x_train[own], y_validation=dataset.y_train[own],
        x_test=dataset.x_test[tested], y_test=dataset.y_test[tested],
    )  # fmt: skip
