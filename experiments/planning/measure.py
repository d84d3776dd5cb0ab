"""Measures losses, seconds and bytes of trainings that are cut at a grid of epochs; resumable.

A file for each seed and change of L: seed0-whole.json (L alone), seed0-M5.json (cut to M after 5
epochs, and from there to S at every epoch of the grid), seed0-S5.json. L is trained anew by a
process that goes on, to the same bits; what is in a file is not done again.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynhp_jax.common import schema
from dynhp_jax.common.errors import UserError
from dynhp_jax.planner import Pair, Stage
from dynhp_jax.planner.state import Trace
from dynhp_jax.training import config as configuration
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from experiments import config_sections, result_files
from experiments.planning.bench import Bench, Line
from experiments.planning.settings import FREE, MODELS, NODES, Planning

LARGE, MIDDLE, SMALL = map(Pair, MODELS, NODES)
_STAGE = schema.fields({"model": schema.TEXT, "losses": schema.list_of(schema.NUMBER, 1)})
_KIND = schema.fields(
    {
        "seed": result_files.SEED,
        "made_of": schema.MAPPING,
        "costs": schema.MAPPING,
        "trainings": schema.list_of(schema.fields({"stages": schema.list_of(_STAGE, 1)}), 1),
    }
)


class Recorder:
    """A training and what was recorded of it, stage by stage.

    Args:
      bench: of the seed.
      line: where the training stands.
      stages: of it so far, as JSON holds them.
    """

    def __init__(self, bench: Bench, line: Line, stages: tuple[dict[str, Any], ...]):
        self._bench, self.line, self.stages = bench, line, stages

    @classmethod
    def begin(cls, bench: Bench) -> "Recorder":
        """Before the first epoch."""
        line = bench.begin()
        return cls(bench, line, (_stage(line.pair, line.loss),))

    def train(self, epochs: int) -> None:
        """So many epochs more of the present pair."""
        for _ in range(epochs):
            self.line, epoch = self._bench.train(self.line)
            for name, value in dataclasses.asdict(epoch).items():
                kept = "losses" if name == "loss" else name
                self.stages[-1][kept].append(round(value, 6))

    def branch(self, pair: Pair) -> "Recorder":
        """Another training, from here on with another pair."""
        line, change = self._bench.change(self._bench.copy(self.line), pair)
        fresh = _stage(pair, change.loss) | {"after_cut": round(change.cut, 6)}
        return Recorder(self._bench, line, (*_copied(self.stages), fresh))

    def costs(self) -> dict[str, dict[str, float]]:
        """Of an epoch of the present pair."""
        return {self.line.pair.model: self._bench.costs(self.line)}


def _stage(pair: Pair, loss: float) -> dict[str, Any]:
    return {
        "model": pair.model, "losses": [round(loss, 6)], "accuracy": [], "seconds": [],
        "compile_seconds": [],
    }  # fmt: skip


def _copied(stages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {name: list(value) if isinstance(value, list) else value for name, value in each.items()}
        for each in stages
    )


def measure(config: Config, planning: Planning, folder: Path) -> None:
    """Everything that is missing, seed by seed.

    Raises:
      UserError: a file there is of another config.
    """
    programs = Programs()
    for seed in range(planning.seeds):
        paths = _paths(planning, folder, seed)
        missing = [name for name, path in paths.items() if _read(path, config, planning) is None]
        if not missing:
            continue
        bench = Bench(dataclasses.replace(config, seed=seed), planning, programs)
        for name, costs, trainings in _groups(bench, planning, missing):
            result_files.write_lines(
                paths[name],
                {
                    "seed": seed,
                    "made_of": made_of(config, planning),
                    "costs": costs,
                    **provenance.present(),
                    "trainings": [{"stages": list(stages)} for stages in trainings],
                },
            )
            _say(paths[name].stem, trainings)


def _say(name: str, trainings: list[Any]) -> None:
    last = trainings[-1][-1]
    print(
        f"{name}: {len(trainings)} trainings, the last one ends at a loss of"
        f" {last['losses'][-1]:.4f}, {last['accuracy'][-1]:.1f} % right",
        flush=True,
    )


def _paths(planning: Planning, folder: Path, seed: int) -> dict[str, Path]:
    names = ["whole", *(f"{model}{cut}" for cut in planning.cuts for model in MODELS[1:])]
    return {name: folder / f"seed{seed}-{name}.json" for name in names}


def _groups(bench: Bench, planning: Planning, missing: list[str]) -> Iterator[tuple]:
    """(name, costs, trainings) of every missing file."""
    trunk, done = Recorder.begin(bench), 0
    for cut in (*planning.cuts, planning.first):
        trunk.train(cut - done)
        done = cut
        if cut not in planning.cuts:
            continue
        if f"{SMALL.model}{cut}" in missing:
            small = trunk.branch(SMALL)
            small.train(planning.later)
            yield f"{SMALL.model}{cut}", small.costs(), [small.stages]
        if f"{MIDDLE.model}{cut}" in missing:
            yield f"{MIDDLE.model}{cut}", *_twice(trunk, planning)
    if "whole" in missing:
        yield "whole", trunk.costs(), [trunk.stages]


def _twice(trunk: Recorder, planning: Planning) -> tuple[dict[str, Any], list[Any]]:
    """Cut to M, and from there to S at every epoch of the grid."""
    middle, done, costs, found = trunk.branch(MIDDLE), 0, {}, []
    for again in (*planning.cuts, planning.later):
        middle.train(again - done)
        done = again
        costs |= middle.costs()
        if again in planning.cuts:
            small = middle.branch(SMALL)
            small.train(planning.later)
            costs |= small.costs()
            found.append(small.stages)
    return costs, [*found, middle.stages]


def made_of(config: Config, planning: Planning) -> dict[str, Any]:
    """What measurements depend on, as JSON holds it."""
    own = {k: v for k, v in dataclasses.asdict(planning).items() if k not in FREE}
    plain = configuration.to_dict(dataclasses.replace(config, seed=0))
    of_machine = ("compiling", "checkpoint", "records", "devices")
    plain = {name: value for name, value in plain.items() if name not in of_machine}
    plain["data"] = {k: v for k, v in plain["data"].items() if k not in ("dir", "cache_dir")}
    return config_sections.as_json({**plain, "plan": own})


def _read(path: Path, config: Config, planning: Planning) -> dict[str, Any] | None:
    found = result_files.read(path, _KIND)
    now = made_of(config, planning)
    if found is not None and not config_sections.agrees(found["made_of"], now, Planning):
        raise UserError(
            f"{path} was measured with another config; move it away, or name this one differently"
            " (config.name)"
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """All that was measured.

    Attributes:
      traces: the trainings.
      costs: of an epoch, by model; see `Bench.costs`.
      seconds: of an epoch, by model: the median.
      compile_seconds: of the first epoch after a change to a model: the median of those that
        compiled; 0 for what never did.
      seeds: in order.
    """

    traces: list[Trace]
    costs: dict[str, dict[str, float]]
    seconds: dict[str, float]
    compile_seconds: dict[str, float]

    @property
    def seeds(self) -> list[int]:
        return sorted({trace.seed for trace in self.traces})

    def without(self, seed: int) -> list[Trace]:
        """The trainings of other seeds; all of them where there is no other."""
        return [each for each in self.traces if each.seed != seed] or self.traces


def read(config: Config, planning: Planning, folder: Path) -> Measured:
    """What was measured.

    Raises:
      UserError: nothing was, or not all of it, or with another config.
    """
    traces, costs, seconds, compiling = [], {}, {}, {}
    seeds = [int(path.stem[4:].split("-")[0]) for path in folder.glob("seed*-whole.json")]
    if not seeds:
        raise UserError(f"nothing was measured in {folder} yet; run it with --measure first")
    pairs = dict(zip(MODELS, (LARGE, MIDDLE, SMALL), strict=True))
    for seed in sorted(seeds):
        for path in _paths(planning, folder, seed).values():
            found = _read(path, config, planning)
            if found is None:
                raise UserError(f"{path} is missing; run the same with --measure, which goes on")
            costs |= found["costs"]
            for training in found["trainings"]:
                stages = training["stages"]
                traces.append(
                    Trace(
                        seed,
                        tuple(Stage(pairs[s["model"]], tuple(s["losses"])) for s in stages),
                    )
                )
                for stage in stages:
                    seconds.setdefault(stage["model"], []).extend(stage["seconds"][1:])
                    waited = [each for each in stage["compile_seconds"] if each > 0.1]
                    compiling.setdefault(stage["model"], []).extend(waited)
    return Measured(
        traces, costs,
        {model: statistics.median(each) for model, each in seconds.items()},
        {model: statistics.median(each) if each else 0.0 for model, each in compiling.items()},
    )  # fmt: skip
