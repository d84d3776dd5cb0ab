"""A plan on the engine: real cuts, real switches of data, planned anew before every epoch."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dynhp_jax.planner import Executed, Grid, Limits, Observed, Pair, Plan, State, Tables, replanned
from dynhp_jax.planner.baselines import described
from dynhp_jax.planner.estimators.estimator import Estimator
from dynhp_jax.training.compiled.programs import Programs
from dynhp_jax.training.config import Config
from experiments.planning.bench import Bench
from experiments.planning.settings import NODES, Planning


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is planned.

    Attributes:
      tables, estimator, limits, grid: as `dynhp_jax.planner.plan` takes them.
      options: of it.
    """

    tables: Tables
    estimator: Estimator
    limits: Limits
    grid: Grid
    options: dict[str, str]


def run(
    config: Config, planning: Planning, problem: Problem, told: Callable[[State, Plan], None]
) -> Executed:
    """Trains by the plan until the target is met or no plan is left.

    Seconds are those that this run took, as the nodes would (compilation as in the tables); joules
    are those of the tables. Every step's bytes are checked against the node's room.

    Args:
      config, planning: of the training; its seed is the config's.
      problem: what is planned.
      told: is called with every state and its plan.
    """
    bench = Bench(config, planning, Programs())
    held = [bench.begin()]

    def step(state: State, pair: Pair) -> Observed:
        line = held.pop()
        (move,) = (each for each in problem.tables.moves(state.pair) if each.target == pair)
        changed = state.loss
        if pair != line.pair:
            line, change = bench.change(line, pair)
            changed = change.loss
        line, epoch = bench.train(line)
        held.append(line)
        seconds = epoch.seconds
        if planning.costs == "stated":
            seconds = move.change_time + epoch.seconds * planning.slower[NODES.index(pair.nodes)]
        else:
            seconds = move.change_time + move.time
        return Observed(epoch.loss, changed, seconds)

    return replanned(
        step, State.beginning(held[0].pair, held[0].loss), problem.tables, problem.estimator,
        problem.limits, problem.grid, told=told, **problem.options,
    )  # fmt: skip


def compared(done: Executed, limits: Limits) -> tuple[list[str], dict[str, Any]]:
    """How far the first plan and the outcome were apart, in lines and as JSON holds it."""
    state = done.state
    epochs = tuple((stage.pair, len(stage.losses) - 1) for stage in state.stages)
    outcome = {
        "epochs": [[pair.model, count] for pair, count in epochs],
        "losses": [list(stage.losses) for stage in state.stages],
        "loss": state.loss,
        "energy": done.energy,
        "time": state.time,
        "met": done.met,
        "target": limits.loss,
        "deadline": limits.time,
    }
    said = "met" if done.met else "not met"
    lines = [
        f"the target of {limits.loss:g} was {said}: a loss of {state.loss:.4f} after"
        f" {state.time:.4g} s and {done.energy:.4g} J ({described(epochs)})"
    ]
    if done.stopped is not None:
        lines.append(f"it ended early: {done.stopped.why}")
    if done.plans and done.energy:
        first = done.plans[0]
        planned = [[s.pair.model, s.expected, s.robust, s.time, s.energy] for s in first.steps]
        outcome["planned"] = planned
        apart = {
            "energy": done.energy / first.energy - 1,
            "time": state.time / first.time - 1,
            "epochs": sum(count for _, count in epochs) - len(first.steps),
        }
        outcome["apart"] = apart
        lines.append(
            f"the first plan said {first.energy:.4g} J and {first.time:.4g} s in"
            f" {len(first.steps)} epochs: energy {100 * apart['energy']:+.0f} %, time"
            f" {100 * apart['time']:+.0f} %, epochs {apart['epochs']:+d}"
        )
        seen, likely = observed(done)
        if len(seen):
            errors = [abs(a - b) for a, b in zip(seen, likely, strict=True)]
            mean = sum(errors) / len(errors)
            outcome["error"] = mean
            lines.append(f"an epoch's loss was {mean:.4f} from what was expected before it")
    return lines, outcome


def observed(done: Executed) -> tuple[list[float], list[float]]:
    """(losses, what the plan before each epoch expected)."""
    losses = [loss for stage in done.state.stages for loss in stage.losses[1:]]
    return losses, [each.steps[0].expected for each in done.plans[: len(losses)]]
